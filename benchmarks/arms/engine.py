"""Ours in process: LocalEngine with the full info of every token. Tells what a step is made of."""

import os

# As the server sets it; to be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "4000")

import argparse
import logging
import statistics
import threading
import time
from types import SimpleNamespace
from typing import Any

import torch

import adaptive
from adaptive import Filters, Fixed, Greedy, Policy, TargetEntropy
from benchmarks.worker import TARGET, TEMPERATURE, TOP_P, Job, Outcome, Watch, work
from server.engine.events import Drawn, Event, Failed, Finished
from server.engine.loading import ModelSource, load
from server.engine.local import LocalEngine
from server.engine.model import Model
from server.engine.request import GenerationRequest, Stopping
from server.engine.scheduler import Limits

SETTINGS: dict[str, tuple[Policy, Filters]] = {
    "greedy": (Greedy(), Filters()),
    "fixed": (Fixed(TEMPERATURE), Filters(top_p=TOP_P)),
    "target": (TargetEntropy(TARGET), Filters(top_p=TOP_P)),
}


class Parts:
    """Seconds of the present step in the model and in the sampler; and of the steps before, where all streams drew one
    token and nothing else happened."""

    def __init__(self, model: Model) -> None:
        self._forward, self._draw = model.forward, adaptive.step
        model.forward, adaptive.step = self.forward, self.draw  # type: ignore[method-assign, assignment]
        self.begin([])

    def begin(self, prompts: list[list[int]]) -> None:
        """Forget the job before."""
        self._streams = len(prompts)
        self._model = self._sampler = 0.0
        self._last = None if not prompts else time.perf_counter()
        self.steps: list[dict[str, float]] = []

    def forward(self, *given: Any) -> torch.Tensor:
        """The model's."""
        begin = time.perf_counter()
        out = self._forward(*given)
        self._model += time.perf_counter() - begin
        return out

    def draw(self, *given: Any, **named: Any) -> tuple[torch.Tensor, Any]:
        """The sampler's, up to the records on the host."""
        begin = time.perf_counter()
        tokens, report = self._draw(*given, **named)
        records = report.records()
        self._sampler += time.perf_counter() - begin
        return tokens, SimpleNamespace(records=lambda: records, faults=report.faults, start_copy=lambda: None)

    def step(self, events: list[tuple[str, Event]]) -> None:
        """A step has ended with these events."""
        now = time.perf_counter()
        if self._last is not None and [type(event) for _, event in events] == [Drawn] * self._streams:
            step = now - self._last
            host = step - self._model - self._sampler
            self.steps.append({"step": step, "forward": self._model, "sampler": self._sampler, "host": host})
        self._last, self._model, self._sampler = now, 0.0, 0.0

    def medians(self) -> dict[str, float]:
        """Milliseconds of each part."""
        if not self.steps:
            return {}
        return {name: statistics.median(step[name] for step in self.steps) * 1e3 for name in self.steps[0]}


class Faults(logging.Handler):
    """What the engine said of faults: it goes on after one, on a slower way, and its figures mean nothing then."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []
        logging.getLogger("server.engine").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Take it down."""
        self.said.append(record.getMessage())


class Ours:
    """An engine that does one job after another."""

    def __init__(self, model: str, dtype: str, compiled: bool) -> None:
        loaded, tokenizer = load(ModelSource(model, dtype=dtype, compile=compiled))
        self._parts, self._faults = Parts(loaded), Faults()
        self._done = threading.Event()
        self._jobs = 0
        limits = Limits(rows=64, kv_tokens=64 * loaded.context_length, chunk=256)
        self._engine = LocalEngine(loaded, tokenizer.token_bytes, limits, 64, self._deliver)
        self._engine.start()

    def run(self, job: Job) -> Outcome:
        """Do a job."""
        self._jobs += 1
        self._done.clear()
        self._left = len(job.prompts)
        policy, filters = SETTINGS[job.setting]
        stopping = Stopping(max_output_tokens=job.tokens, ignore_eos=True)
        self._parts.begin(job.prompts)
        self._watch = Watch(job)
        for stream, prompt in enumerate(job.prompts):
            name = f"{self._jobs} {stream}"
            self._engine.submit(GenerationRequest(name, tuple(prompt), policy, filters, stopping, seed=stream))
        self._done.wait()
        if any(len(tokens) != job.tokens for tokens in self._watch.outcome.tokens):
            raise RuntimeError("a generation failed")
        if self._faults.said:
            raise RuntimeError(self._faults.said[0])
        self._watch.outcome.step = self._parts.medians()
        return self._watch.outcome

    def _deliver(self, events: list[tuple[str, Event]]) -> None:
        for name, event in events:
            if isinstance(event, Drawn):
                self._watch.take(int(name.split()[1]), event.info.token_id)
            self._left -= isinstance(event, Finished | Failed)
        self._parts.step(events)
        if not self._left:
            self._done.set()


def main() -> None:
    """Work."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("dtype")
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    work(f"torch {torch.__version__}", Ours(given.model, given.dtype, given.compile).run)


if __name__ == "__main__":
    main()
