"""The step of a batch that stays together as a CUDA graph: one launch, and nothing else for the host to do."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from adaptive.gpu import fused
from adaptive.info import Report
from adaptive.rows import Rows
from adaptive.sampler import Masks, step

_RIPE = 8
"""Steps that rows have to stay together, over logits in one place, before a capture, which takes as long as a few."""
_log = logging.getLogger(__name__)

Run = Callable[[], tuple[Tensor, Report]]


class _Rolled:
    """In place of the dice of a batch, dice on the device alone, which go on by one step with each replay.

    seeds, positions: int64 `[rows]`.
    """

    def __init__(self, rows: Rows) -> None:
        self.seeds, self.positions = rows.seeds, rows.dice.positions.clone()
        self._numbers = torch.empty_like(self.positions, dtype=torch.float64)

    def next(self) -> Tensor:
        fused.roll(self.seeds, self.positions, self._numbers)
        return self._numbers

    def advance(self) -> None:
        """They are further already."""


def captured(run: Run) -> Run:
    """A function that does again on the device what `run` did, and returns what `run` returned."""
    graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    # Not by torch.cuda.graph, which collects garbage and gives memory back: that takes long in the midst of serving.
    with torch.cuda.stream(aside):
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            out = run()
        finally:
            graph.capture_end()
    torch.cuda.current_stream().wait_stream(aside)

    def replay() -> tuple[Tensor, Report]:
        graph.replay()
        return out

    return replay


class Replay:
    """`adaptive.step` of one batch after another. record: as `captured`.

    Captured is what kernels serve whole and the host has no part in: no masks, no penalties, and our own policies,
    which are pure. The report of a step is overwritten by the next.
    """

    def __init__(self, record: Callable[[Run], Run] = captured) -> None:
        self._record = record
        self._rows: Rows | None = None
        self._place: tuple[Any, ...] = ()
        self._age = 0
        self._dice: _Rolled | None = None
        self._passed = False
        self._run: Run | None = None

    def step(self, logits: Tensor, rows: Rows, masks: Masks | None = None) -> tuple[Tensor, Report]:
        """As `adaptive.step`."""
        place = (logits.data_ptr(), logits.shape, logits.stride(), logits.dtype)
        if rows is not self._rows or place != self._place:
            self._rows, self._place, self._age, self._run = rows, place, 0, None
        self._age += 1
        if masks is None and self._age == _RIPE and _pure(rows):
            self._capture(logits, rows)
        if masks is not None or self._run is None or self._dice is None:
            self._passed = True
            return step(logits, rows, masks)
        if self._passed:  # other steps have gone on from where the dice on the device are
            self._dice.positions.copy_(rows.dice.positions)
            self._passed = False
        tokens, report = self._run()
        rows.dice.advance()
        return tokens, replace(report, copy=None)

    def _capture(self, logits: Tensor, rows: Rows) -> None:
        rolled = self._dice = _Rolled(rows)
        self._passed = True

        def run() -> tuple[Tensor, Report]:
            dice, states = rows.dice, [group.state for group in rows.groups]
            rows.dice = rolled  # type: ignore[assignment]
            try:
                result = step(logits, rows)
                for group, before in zip(rows.groups, states, strict=True):
                    for name, column in before.items():
                        column.copy_(group.state[name])
            finally:
                rows.dice = dice
                for group, before in zip(rows.groups, states, strict=True):
                    group.state = before
            return result

        try:
            self._run = self._record(run)
        except Exception as fault:
            _log.warning("a batch's step goes without a CUDA graph: %s: %s", type(fault).__name__, fault)


def _pure(rows: Rows) -> bool:
    """Whether a step of these rows is the same work on the device each time."""
    ours = all(group.kind.__module__.startswith("adaptive.policies.") for group in rows.groups)
    return ours and rows.fused and rows.unfused is None and rows.repetition is None and rows.bias is None
