"""The rows of the sampler and the generations that they belong to."""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

import adaptive
from adaptive import Choice, Rows, SamplingInfo
from server.engine.generation import Generation, Stage
from server.engine.masks import masks
from server.engine.model import Model

_log = logging.getLogger(__name__)


class Draw(NamedTuple):
    """A token that was drawn. said: what its policy said, if it failed."""

    info: SamplingInfo
    choices: list[Choice]
    said: str | None = None


class Batch:
    """Row i of the sampler belongs to members[i], and last[i], on the device, is the token that it drew last."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._rows = Rows([], model.device)
        self.members: list[Generation] = []
        self.last = torch.zeros(0, dtype=torch.int64, device=model.device)

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

    def draw(self, logits: Tensor) -> Iterator[tuple[Generation, Draw | None]]:
        """Draw a token of every row, of logits `[rows, vocab]`; None for a row that cannot be drawn. Each is to be
        taken in before the next is asked for."""
        try:
            self.last, report = adaptive.step(logits, self._rows, masks(self.members, self._model))
            records = report.records()
        except Exception:
            _log.exception("a draw failed; its rows are now drawn one by one")
            yield from self._draw_one_by_one(logits)
            return
        for row, (generation, record) in enumerate(zip(self.members, records, strict=True)):
            yield generation, Draw(*record, report.faults.get(row))

    def _draw_one_by_one(self, logits: Tensor) -> Iterator[tuple[Generation, Draw | None]]:
        """The same draws, each row alone and from where its generation is."""
        last = torch.zeros(len(self.members), dtype=torch.int64, device=logits.device)
        for row, generation in enumerate(self.members):
            here = slice(row, row + 1)
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
