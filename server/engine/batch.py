"""The rows of the sampler and the generations that they belong to."""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

import adaptive
from adaptive import Choice, Report, Rows, SamplingInfo
from adaptive.accelerator import replayed_step
from server.engine.generation import Generation, Stage
from server.engine.masks import masks
from server.engine.model import Model

_AHEAD = ("cuda",)
"""Devices on which the host reads a step while the next one is computed."""
_log = logging.getLogger(__name__)


class Draw(NamedTuple):
    """A token that was drawn. said: what its policy said, if it failed."""

    info: SamplingInfo
    choices: list[Choice]
    said: str | None = None


class Flight(NamedTuple):
    """A step that the device was told to do and the host has not read yet: whose rows it has, and what it gives."""

    members: list[Generation]
    report: Report


class Batch:
    """Row i of the sampler belongs to members[i], and last[i], on the device, is the token that it drew last.

    On a GPU, while the same rows go on and no token steers what follows it, a step is read one step later.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._rows = Rows([], model.device)
        self.members: list[Generation] = []
        self.last = torch.zeros(0, dtype=torch.int64, device=model.device)
        self._replayed = replayed_step(model.device)
        self._flight: Flight | None = None

    @property
    def unread(self) -> int:
        """Steps, 0 or 1, whose tokens the generations do not have yet."""
        return 0 if self._flight is None else 1

    def foreseeable(self, tokens: int) -> bool:
        """Whether each row can draw so many more tokens before the first is read."""
        return all(member.foreseeable(tokens) and not member.held for member in self.members)

    def land(self) -> Iterator[tuple[Generation, Draw | None]]:
        """What the unread step drew, if there is one."""
        flight, self._flight = self._flight, None
        if flight is not None:
            yield from _drawn(flight, flight.report.records())

    def settle(self) -> None:
        """Take out the rows of generations that have ended; give new policies to those that turned."""
        keep = [row for row, member in enumerate(self.members) if member.stage is Stage.DECODING]
        anew = {row: self.members[row].settings for row in keep if self.members[row].turned}
        if len(keep) == len(self.members) and not anew:
            return
        self.members = [self.members[row] for row in keep]
        for member in self.members:
            member.turned = False
        self._rows = self._rows.change(keep, anew=anew)
        self.last = self.last[torch.tensor(keep, dtype=torch.int64, device=self.last.device)]

    def join(self, joining: Sequence[Generation]) -> None:
        """Add rows, which draw their first token next."""
        if joining:
            self._rows = self._rows.change(range(len(self.members)), [g.settings for g in joining])
            self.members = [*self.members, *joining]
            for generation in joining:
                generation.turned = False

    def draw(self, logits: Tensor, ahead: bool = False) -> Iterator[tuple[Generation, Draw | None]]:
        """Draw a token of every row, of logits `[rows, vocab]`; None for a row that cannot be drawn. Each is to be
        taken in before the next is asked for. ahead: what is drawn may stay unread till the next draw, or till `land`;
        an unread step comes first."""
        before = self.land()
        ahead = ahead and self._model.device.type in _AHEAD and self.foreseeable(1)
        step = self._replayed or adaptive.step
        try:
            self.last, report = step(logits, self._rows, masks(self.members, self._model))
            report.start_copy()
            records = [] if ahead else report.records()
        except Exception:
            _log.exception("a draw failed; its rows are now drawn one by one")
            yield from before
            yield from self._draw_one_by_one(logits)
            return
        yield from before
        if ahead:
            self._flight = Flight(self.members, report)
        else:
            yield from _drawn(Flight(self.members, report), records)

    def _draw_one_by_one(self, logits: Tensor) -> Iterator[tuple[Generation, Draw | None]]:
        """The same draws, each row alone and from where its generation is."""
        last = torch.zeros(len(self.members), dtype=torch.int64, device=logits.device)
        for row, generation in enumerate(self.members):
            here = slice(row, row + 1)
            if generation.stage is not Stage.DECODING:
                continue
            try:
                alone = Rows([generation.settings], logits.device)
                last[here], report = adaptive.step(logits[here], alone, masks([generation], self._model))
                drawn = Draw(*report.records()[0], report.faults.get(0))
            except Exception:
                _log.exception("a row could not be drawn")
                yield generation, None
            else:
                yield generation, drawn
        self.last, self._rows = last, Rows([member.settings for member in self.members], logits.device)


def _drawn(flight: Flight, records: list[tuple[SamplingInfo, list[Choice]]]) -> Iterator[tuple[Generation, Draw]]:
    """What is drawn of each row; those that have ended since have computed the step for nothing."""
    for row, (generation, record) in enumerate(zip(flight.members, records, strict=True)):
        if generation.stage is Stage.DECODING:
            yield generation, Draw(*record, flight.report.faults.get(row))
