"""The sampler on the CPU by sampler.cpp, in the places of `adaptive.moments`, the search of target_entropy, and
`adaptive.pool`: a call looks at all rows, and at each of them as often as it needs to."""

import ctypes
from ctypes import POINTER, c_int, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from adaptive.candidates import Candidates
from adaptive.cpu.library import build
from adaptive.floors import Floored
from adaptive.info import WIDTH
from adaptive.moments import Moments, Ranked
from adaptive.policies import Control
from adaptive.pool import FIGURES, Setting
from adaptive.rows import Rows

_FOUND = 12
"""Columns of `Found` of sampler.cpp."""


class _Batch(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("logits", "found", "maxima")),
        *((name, c_int64) for name in ("rows", "vocab")),
        ("threads", c_int),
    )


class _Asked(ctypes.Structure):
    _fields_ = tuple(
        (name, c_void_p)
        for name in (
            "temperatures", "log_sums", "entropies", "top_k", "top_p", "min_p", "surprisal", "saturated", "infeasible",
        )
    )  # fmt: skip


class _Control(ctypes.Structure):
    _fields_ = tuple((name, c_void_p) for name in ("temperatures", "saturated", "infeasible", "log_sums", "entropies"))


@cache
def library() -> ctypes.CDLL:
    """The functions of sampler.cpp. CannotCompile as `adaptive.cpu.library.build`."""
    batch, asked = map(POINTER, (_Batch, _Asked))
    made = build(
        Path(__file__).with_name("sampler.cpp"),
        {
            "survey": [batch, c_void_p],
            "search": [batch, *[c_void_p] * 4, POINTER(_Control), c_int64],
            "keep": [batch, asked, c_void_p],
            "draw": [batch, asked, *[c_void_p] * 4],
        },
    )
    made.block.restype = c_int64
    return made


@cache
def _block() -> int:
    """Tokens whose maximum is known."""
    return int(library().block())


@dataclass(slots=True)
class Survey:
    """What sampler.cpp found in float32 logits `[rows, vocab]`. found: `Found` there, float64 `[12, rows]`. maxima: of
    blocks. foreseen: whether temperatures were known. batch: the same for sampler.cpp."""

    logits: Tensor
    found: tuple[Tensor, ...]
    maxima: Tensor
    foreseen: bool
    batch: _Batch

    @property
    def best(self) -> Candidates:
        """The most likely token."""
        return Candidates(self.found[0].float()[:, None], self.found[1].long()[:, None])

    @property
    def columns(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The first columns of `adaptive.entropy.Statistics`."""
        maximum, _, entropy, varentropy, top_prob, normalizer = self.found[:6]
        return entropy, varentropy, top_prob, maximum, normalizer

    @property
    def moments(self) -> Moments:
        """At temperature 1."""
        return Moments(*self.found[6:10])

    @property
    def ahead(self) -> tuple[Tensor, Tensor] | None:
        """See `adaptive.entropy.Statistics`."""
        return (self.found[10], self.found[11]) if self.foreseen else None

    @property
    def ties(self) -> Tensor:
        """How many tokens `[rows]` are as likely as the most likely."""
        return (self.logits == self.found[0][:, None]).sum(-1)

    @property
    def possible(self) -> Tensor:
        """How many tokens `[rows]` have a probability above 0."""
        return (self.logits > -torch.inf).sum(-1)

    def search(self, index: Tensor | None, target: Tensor, coldest: Tensor, hottest: Tensor) -> Control:
        """The temperature between two at which rows `index` (None: all) have the target entropy; float64 `[members]`.
        As `adaptive.search.solve` finds it."""
        columns = [torch.empty_like(target) for _ in range(5)]
        wish = [column.contiguous() for column in (target, coldest, hottest)]
        library().search(
            self.batch, _address(index), *map(_address, wish), _Control(*map(_address, columns)), len(target)
        )
        temperature, saturated, infeasible, log_sum, entropy = columns
        return Control(temperature, saturated, infeasible, log_sum=log_sum, scaled_entropy=entropy)

    def pool(self, rows: Rows, setting: Setting) -> "Fused":
        """What max_surprisal, top_k, top_p and min_p leave of every row."""
        control, filters, (count, blocks) = setting.control, setting.columns, self.maxima.shape
        columns = [
            None if column is None else column.double().contiguous()
            for column in (
                control.temperature, control.log_sum, control.scaled_entropy,
                filters["top_k"], filters["top_p"], filters["min_p"],
                control.max_surprisal, control.saturated, control.infeasible,
            )
        ]  # fmt: skip
        assert columns[0] is not None
        asked = _Asked(*map(_address, columns))
        room = self.found[0].new_empty(len(FIGURES) + 3 + blocks, count)
        library().keep(self.batch, asked, room.data_ptr())
        return Fused(
            index=None, ids=None, weights=self.logits, kept=None, figures=room[: len(FIGURES)], setting=setting,
            temperatures=columns[0], survey=self, asked=asked, columns=columns, room=room,
        )  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Fused(Floored):
    """What `keep` of sampler.cpp left, and was asked for. columns: what asked has the addresses of. room: `Left` of
    sampler.cpp, float64 `[6 + 3 + blocks, rows]`."""

    survey: Survey
    asked: _Asked
    columns: list[Tensor | None]
    room: Tensor

    @property
    def floors(self) -> tuple[Tensor, Tensor, Tensor]:
        floor, edge, limit = self.room[len(FIGURES) :][:3]
        return floor.long(), edge, limit

    def draw(self, u: Tensor) -> Tensor:
        tokens = torch.empty(len(u), dtype=torch.int64)
        packed = torch.empty(len(u), WIDTH, dtype=torch.float64)
        numbers = u.contiguous()
        library().draw(self.survey.batch, self.asked, *map(_address, (self.room, numbers, tokens, packed)))
        self.packed = packed
        return tokens


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def rank(logits: Tensor, ahead: Tensor | None = None, ladder: bool = False) -> Ranked:
    """As `adaptive.moments.rank_and_measure`, of float32 logits. ahead: 1 / temperature, float64 `[rows]`, NaN where it
    is not known: what is then found is `Survey.ahead`. ladder: of no use here."""
    made, (rows, vocab), logits = library(), logits.shape, logits.contiguous()
    found = torch.empty(_FOUND, rows, dtype=torch.float64)
    maxima = torch.empty(rows, -(-vocab // _block()))
    batch = _Batch(*map(_address, (logits, found, maxima)), rows, vocab, torch.get_num_threads())
    made.survey(batch, _address(ahead))
    return Ranked(logits, None, Survey(logits, found.unbind(), maxima, ahead is not None, batch))
