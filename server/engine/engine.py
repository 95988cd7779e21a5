"""The engine: one thread that owns the model and decodes all generations together, step by step."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

import adaptive
from adaptive import Rows
from server.engine.detokenizer import TokenBytes
from server.engine.events import Event, Failed, Finished
from server.engine.generation import Generation, Stage
from server.engine.kv_cache import RowCache
from server.engine.model import Model, Piece
from server.engine.request import GenerationRequest
from server.engine.scheduler import Limits, Plan, Scheduler

Deliver = Callable[[list[tuple[str, Event]]], None]
"""Takes all events of a step, with the ids of their requests. Called on the engine's thread; must not block."""

_log = logging.getLogger(__name__)


class QueueFull(Exception):
    """Nothing more can wait; the request was not taken."""


class EngineDown(Exception):
    """The engine does not run, or no longer."""


class TooLarge(Exception):
    """The request could never be admitted: it can need more KV memory than there is."""


@dataclass(frozen=True, slots=True)
class State:
    """What the engine is doing now."""

    alive: bool
    running: int
    waiting: int
    kv_tokens: int
    steps: int


class Engine(Protocol):
    """All that the service knows of an engine."""

    def submit(self, request: GenerationRequest) -> None:
        """Take a request; its events follow. QueueFull, TooLarge or EngineDown if it is not taken."""

    def cancel(self, request_id: str) -> None:
        """Forget a request, wherever it is, within one step. No event follows. Unknown ids are ignored."""

    def state(self) -> State:
        """What the engine is doing now."""


class LocalEngine:
    """The engine on this machine's model. `submit`, `cancel` and `state` may be called from any thread."""

    def __init__(
        self,
        model: Model,
        token_bytes: TokenBytes,
        limits: Limits,
        max_queue: int,
        deliver: Deliver,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._model = model
        self._token_bytes = token_bytes
        self._deliver = deliver
        self._ended = ended
        self._scheduler = Scheduler(limits)
        self._capacity = limits.rows + max_queue
        self._inbox: deque[GenerationRequest | str] = deque()
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._alive = False
        self._stopping = False
        self._steps = 0
        # Below: the engine thread's own. Row i of the sampler belongs to _members[i].
        self._generations: dict[str, Generation] = {}
        self._caches: dict[str, RowCache] = {}
        self._members: list[Generation] = []
        self._rows = Rows([], model.device)
        self._last = torch.zeros(0, dtype=torch.int64, device=model.device)
        self._live = 0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the engine thread."""
        self._alive = True
        self._thread.start()

    def stop(self) -> None:
        """End the engine thread after the step in progress; what is unfinished fails."""
        self._stopping = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    def submit(self, request: GenerationRequest) -> None:
        room = self._model.context_length - len(request.prompt)
        need = len(request.prompt) + min(request.stopping.max_output_tokens, room) - 1
        if need > self._scheduler.limits.kv_tokens:
            raise TooLarge(f"it can need {need} tokens of KV memory; there are {self._scheduler.limits.kv_tokens}")
        with self._lock:
            if not self._alive:
                raise EngineDown("the engine does not run")
            if self._live >= self._capacity:
                raise QueueFull(f"{self._live} generations run or wait already")
            self._live += 1
            self._inbox.append(request)
        self._wake.set()

    def cancel(self, request_id: str) -> None:
        self._inbox.append(request_id)
        self._wake.set()

    def state(self) -> State:
        running = self._scheduler.running
        return State(self._alive, running, max(0, self._live - running), self._scheduler.kv_tokens, self._steps)

    # The rest runs on the engine thread.

    def _run(self) -> None:
        fault: BaseException | None = None
        try:
            with torch.inference_mode():
                while not self._stopping:
                    self._wake.clear()
                    self._take_messages()
                    if not self._step():
                        self._wake.wait()
        except BaseException as died:
            fault = died
            _log.critical("the engine died", exc_info=died)
        with self._lock:
            self._alive = False
        self._take_messages()
        reason = "the engine stopped" if fault is None else "the engine failed"
        self._deliver([(request_id, Failed(reason, unavailable=True)) for request_id in self._generations])
        self._ended()

    def _step(self) -> bool:
        """One step for everyone; False if there was nothing to do."""
        self._scheduler.admit()
        plan = self._scheduler.plan()
        if not plan:
            return False
        self._settle()
        logits = self._forward(plan)
        events = self._draw(plan, logits)
        self._steps += 1
        if events:
            self._deliver(events)
        return True

    def _take_messages(self) -> None:
        while self._inbox:
            message = self._inbox.popleft()
            if isinstance(message, GenerationRequest):
                generation = Generation(message, self._model.context_length, self._model.eos)
                self._generations[message.id] = generation
                self._scheduler.add(generation)
            elif message in self._generations:
                self._retire(self._generations[message])

    def _retire(self, generation: Generation) -> None:
        self._scheduler.retire(generation)
        del self._generations[generation.id]
        self._caches.pop(generation.id, None)
        with self._lock:
            self._live -= 1

    def _settle(self) -> None:
        """Take the rows of generations that have ended out of the sampler."""
        keep = [row for row, member in enumerate(self._members) if member.stage is Stage.DECODING]
        if len(keep) < len(self._members):
            self._members = [self._members[row] for row in keep]
            self._rows = self._rows.change(keep)
            self._last = self._last[torch.tensor(keep, dtype=torch.int64, device=self._last.device)]

    def _forward(self, plan: Plan) -> Tensor:
        """Logits of all rows that draw: those that decode, then those whose prompt is now complete."""
        pieces = [Piece(self._caches[g.id], len(g.request.prompt) + g.output_tokens - 1, None) for g in plan.decoding]
        for chunk in plan.chunks:
            generation = chunk.generation
            cache = self._caches.setdefault(generation.id, RowCache(generation.kv_tokens))
            prompt = generation.request.prompt[chunk.start : chunk.stop]
            pieces.append(Piece(cache, chunk.start, prompt, chunk.completes))
        try:
            logits = self._model.forward(pieces, self._last)
        except Exception:
            _log.exception("a step failed; its rows are now computed one by one")
            logits = self._one_by_one(plan, pieces)
        for chunk in plan.chunks:
            if chunk.generation.stage is Stage.PREFILLING:
                self._scheduler.advance(chunk)
        return logits

    def _one_by_one(self, plan: Plan, pieces: Sequence[Piece]) -> Tensor:
        """The same step, each row alone: only the row that cannot be computed fails, by way of NaN logits.

        Writing keys and values again at the same positions changes nothing.
        """
        logits = []
        for row, piece in enumerate(pieces):
            mine = self._last[row : row + 1] if piece.tokens is None else self._last[:0]
            try:
                out = self._model.forward([piece], mine)
            except Exception:
                _log.exception("a row failed")
                out = torch.full((int(piece.draws), self._model.vocab_size), torch.nan, device=self._model.device)
                if not piece.draws:  # a prompt that is not complete draws nothing: end it here
                    broken = plan.chunks[row - len(plan.decoding)]
                    self._retire(broken.generation)
                    self._deliver([(broken.generation.id, Failed("the model failed on this prompt"))])
            logits.append(out.float())
        return torch.cat(logits)

    def _draw(self, plan: Plan, logits: Tensor) -> list[tuple[str, Event]]:
        joining = [chunk.generation for chunk in plan.chunks if chunk.completes]
        if joining:
            self._rows = self._rows.change(range(len(self._members)), [g.settings for g in joining])
            self._members = self._members + joining
        if not self._members:
            return []
        self._last, report = adaptive.step(logits, self._rows, self._masked())
        events: list[tuple[str, Event]] = []
        for generation, (info, choices) in zip(self._members, adaptive.unpack(report), strict=True):
            events.extend((generation.id, event) for event in self._take(generation, info, choices))
        return events

    def _take(self, generation: Generation, info: adaptive.SamplingInfo, choices: list[adaptive.Choice]) -> list[Event]:
        """A row's events. Whatever goes wrong in it ends its own request and no other."""
        try:
            if info.failed:
                raise ArithmeticError("the model gave no distribution (NaN or infinite logits)")
            events = generation.take(info, choices, self._token_bytes)
        except Exception as fault:
            _log.exception("generation %s failed at token %d", generation.id, generation.output_tokens)
            told = str(fault) if isinstance(fault, ArithmeticError) else "a fault of the server"
            events = [Failed(f"{told}, at output token {generation.output_tokens}")]
        if isinstance(events[-1], Finished | Failed):
            self._retire(generation)
        return events

    def _masked(self) -> tuple[Tensor, Tensor] | None:
        """(row, token) indices of the ends that may not be drawn yet; None, as nearly always, if there are none."""
        pairs = [(row, token) for row, member in enumerate(self._members) for token in member.suppressed]
        if not pairs:
            return None
        rows, tokens = torch.tensor(pairs, dtype=torch.int64, device=self._model.device).T
        return rows, tokens
