"""The engine, with its figures taken: an Engine around an Engine, which notes what goes in and what comes out.

The engine's thread pays one append a step. What was noted is added up in batches, on a timer and before a scrape.
"""

import enum
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from adaptive.signals import KINDS
from server.engine.engine import Deliver, Engine, State
from server.engine.events import Cause, Drawn, Event, Failed, Finished, FinishReason, Started
from server.engine.request import GenerationRequest
from server.sight.histogram import BatchHistogram

_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60]
_NATS = [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12]
_CHANGE = [-8, -4, -3, -2, -1.5, -1, -0.75, -0.5, -0.25, -0.1, -0.01, 0.01, 0.1, 0.25, 0.5, 1, 2, 4]
_TEMPERATURE = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.5, 1.75, 2, 3, 5]


@dataclass(slots=True)
class _Live:
    """A generation that the engine has. last: when its last token came, on the monotonic clock; 0 before the first."""

    policy: str
    prompt_tokens: int
    scored: bool
    last: float = 0.0


class _Gone(NamedTuple):
    """A generation that the engine has no longer, or never took."""

    request_id: str
    cancelled: bool


class _Paused(NamedTuple):
    """A generation that stood still until now."""

    request_id: str


@dataclass(slots=True)
class _Batch:
    """What is added up together. tokens: (original, final entropy, change, temperature, saturated) by policy."""

    tokens: dict[str, list[tuple[float, ...]]] = field(default_factory=dict)
    gaps: list[float] = field(default_factory=list)
    queued: list[float] = field(default_factory=list)


class Meter(Collector):
    """An Engine whose figures are in `registry`. It delivers what the inner engine gives it, unchanged."""

    def __init__(self, deliver: Deliver, registry: CollectorRegistry) -> None:
        self.engine: Engine
        self._deliver = deliver
        self._noted: deque[tuple[float, GenerationRequest | _Gone | _Paused | list[tuple[str, Event]]]] = deque()
        self._lock = threading.Lock()
        self._live: dict[str, _Live] = {}
        registry.register(self)  # first: a scrape adds up before it reads the others

        def histogram(name: str, help: str, bounds: list[float], label: str = "") -> BatchHistogram:
            return BatchHistogram(f"thermostat_{name}", help, bounds, label, registry)

        def counter(name: str, help: str, label: str = "", values: Iterable[str] = ()) -> Counter:
            made = Counter(f"thermostat_{name}", help, [label] if label else [], registry=registry)
            for value in values:  # known values are there from the start, at 0
                made.labels(value)
            return made

        self._original = histogram("original_entropy_nats", "Entropy of the model's own distribution", _NATS, "policy")
        self._final = histogram("final_entropy_nats", "Entropy of what was drawn from", _NATS, "policy")
        self._change = histogram("entropy_change_nats", "Final less original entropy", _CHANGE, "policy")
        self._temperature = histogram("temperature", "Temperature of the steps", _TEMPERATURE, "policy")
        self._gaps = histogram("inter_token_latency_seconds", "Time between two tokens", _SECONDS)
        self._queued = histogram("request_queue_time_seconds", "From arrival to a row", _SECONDS)
        self._saturated = counter("saturated_tokens", "Tokens at which the policy was at a bound", "policy")
        self._signals = counter("signals", "Signals raised", "kind", KINDS)
        self._prompt = counter("prompt_tokens", "Prompt tokens computed")
        self._cached = counter("cached_prompt_tokens", "Prompt tokens taken from the prefix cache")
        self._generated = counter("generation_tokens", "Tokens drawn")
        self._scored = counter("scored_tokens", "Tokens scored")
        self._finished = counter("finished", "Generations that ended well", "reason", _words(FinishReason))
        self._failed = counter("failed", "Generations that failed", "cause", _words(Cause))
        self._cancelled = counter("cancelled", "Generations that were cancelled, or ran into their deadline")

    def submit(self, request: GenerationRequest) -> None:
        """As Engine.submit."""
        self._noted.append((time.monotonic(), request))
        try:
            self.engine.submit(request)
        except Exception:
            self._noted.append((time.monotonic(), _Gone(request.id, False)))
            raise

    def cancel(self, request_id: str) -> None:
        """As Engine.cancel."""
        self.engine.cancel(request_id)
        self._noted.append((time.monotonic(), _Gone(request_id, True)))

    def hold(self, request_id: str) -> None:
        """As Engine.hold."""
        self.engine.hold(request_id)

    def release(self, request_id: str) -> None:
        """As Engine.release. A pause for a slow reader is no time between two tokens."""
        self._noted.append((time.monotonic(), _Paused(request_id)))
        self.engine.release(request_id)

    def full(self, client: str) -> bool:
        """As Engine.full."""
        return self.engine.full(client)

    def state(self) -> State:
        """As Engine.state."""
        return self.engine.state()

    def deliver(self, events: list[tuple[str, Event]]) -> None:
        """Called on the engine's thread, once a step."""
        self._noted.append((time.monotonic(), events))
        self._deliver(events)

    def collect(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        """For the registry: add up, and say what the engine is doing now."""
        self.add_up()
        state = self.state()
        for name, help, value in (
            ("requests_running", "Generations that hold a row", state.running),
            ("requests_waiting", "Generations that wait for a row", state.waiting),
            ("kv_cache_tokens", "Tokens of KV memory in use", state.kv_tokens),
            ("engine_up", "Whether the engine runs", int(state.alive)),
        ):
            yield GaugeMetricFamily(f"thermostat_{name}", help, value)
        yield CounterMetricFamily("thermostat_steps", "Steps of the engine", state.steps)

    def add_up(self) -> None:
        """Add what was noted to the figures."""
        with self._lock:
            batch = _Batch()
            while self._noted:
                when, noted = self._noted.popleft()
                if isinstance(noted, GenerationRequest):
                    scored = noted.scored_from is not None
                    self._live[noted.id] = _Live(noted.policy.name, len(noted.prompt), scored)
                elif isinstance(noted, _Gone):
                    known = self._live.pop(noted.request_id, None) is not None
                    self._cancelled.inc(known and noted.cancelled)
                elif isinstance(noted, _Paused):
                    if (live := self._live.get(noted.request_id)) is not None:
                        live.last = 0.0
                else:
                    for request_id, event in noted:
                        if (live := self._live.get(request_id)) is not None:
                            self._take(when, request_id, live, event, batch)
            self._add(batch)

    def _take(self, when: float, request_id: str, live: _Live, event: Event, batch: _Batch) -> None:
        if isinstance(event, Drawn):
            info = event.info
            for signal in event.signals:
                self._signals.labels(signal.kind).inc()
            if live.scored:
                self._scored.inc()
                return
            batch.tokens.setdefault(live.policy, []).append(
                (info.original_entropy, info.final_entropy, info.entropy_change, info.temperature, info.saturated)
            )
            if live.last:
                batch.gaps.append(when - live.last)
            live.last = when
        elif isinstance(event, Started):
            self._prompt.inc(live.prompt_tokens - event.cached_tokens)
            self._cached.inc(event.cached_tokens)
            batch.queued.append(event.queue_seconds)
        else:
            del self._live[request_id]
            if isinstance(event, Finished):
                self._finished.labels(event.reason.value).inc()
            elif isinstance(event, Failed):
                self._failed.labels(event.cause.value).inc()

    def _add(self, batch: _Batch) -> None:
        for policy, tokens in batch.tokens.items():
            original, final, change, temperature, saturated = zip(*tokens, strict=True)
            self._generated.inc(len(tokens))
            self._original.add(policy, original)
            self._final.add(policy, final)
            self._change.add(policy, change)
            self._temperature.add(policy, temperature)
            self._saturated.labels(policy).inc(sum(value == 1.0 for value in saturated))
        self._gaps.add("", batch.gaps)
        self._queued.add("", batch.queued)


def _words(kind: type[enum.Enum]) -> list[str]:
    return [each.value for each in kind]
