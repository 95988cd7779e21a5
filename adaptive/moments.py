"""Moments of softmax(logits / temperature) of whole rows, in as few passes over the vocabulary as can be."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple, Union

import torch
from torch import Tensor

from adaptive import accelerator
from adaptive.candidates import COUNT, Candidates, best
from adaptive.scratch import scratch

if TYPE_CHECKING:
    from adaptive.cpu.fused import Survey as SurveyOfCpu
    from adaptive.gpu.fused import Survey as SurveyOfGpu

CHUNK = 1 << 19
"""About as many logits are worked on at a time on the CPU, and of at least four rows."""
_SHARED_OUT = 32_767
"""An operation of torch on more numbers than this is shared out among threads."""


@dataclass
class Ranked:
    """Logits `[rows, vocab]` and the most likely tokens, which are there or else in survey: what kernels found, where
    there are any."""

    logits: Tensor
    candidates: Candidates | None
    survey: Union["SurveyOfCpu", "SurveyOfGpu", None] = None

    @cached_property
    def best(self) -> Candidates:
        """The most likely tokens; on a GPU, and where kernels were compiled, only the first of them."""
        if self.candidates is not None:
            return self.candidates
        assert self.survey is not None
        return self.survey.best

    def scaled(self, rows: Tensor | slice, inverse: Tensor, out: Tensor) -> Tensor:
        """(logits - maximum) * inverse of some rows, `[n, vocab]`. inverse: `[n, 1]`, 1 / temperature."""
        top = self.best.values[rows, :1]
        if isinstance(rows, slice) or out.dtype != self.logits.dtype:
            return torch.sub(self.logits[rows], top, out=out).mul_(inverse)
        return torch.index_select(self.logits, 0, rows, out=out).sub_(top).mul_(inverse)


class Moments(NamedTuple):
    """Of softmax(y), where the largest y is 0; float64 `[rows]`. log_sum: ln of the sum of exp(y). mean, square, cube:
    the means of y and its powers; of an order that was not asked for, that of the order below."""

    log_sum: Tensor
    mean: Tensor
    square: Tensor
    cube: Tensor

    @property
    def entropy(self) -> Tensor:
        """Nats."""
        return (self.log_sum - self.mean).clamp_min_(0.0)

    @property
    def varentropy(self) -> Tensor:
        """Nats squared."""
        return (self.square - self.mean.square()).clamp_min_(0.0)

    @property
    def third(self) -> Tensor:
        """The third central moment of y."""
        return self.cube - self.mean * (3.0 * self.square - 2.0 * self.mean.square())


def rank(logits: Tensor) -> Ranked:
    """Logits `[rows, vocab]` with their most likely tokens."""
    fused = _kernels(logits)
    if fused is not None:
        return fused.rank(logits)
    return Ranked(logits, best(logits, COUNT if logits.device.type == "cpu" else 1))


class Measured(NamedTuple):
    """What one visit to the rows finds. moments: at temperature 1. columns: the first five of
    `adaptive.entropy.Statistics`, and ahead its field."""

    ranked: Ranked
    moments: Moments
    columns: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
    ahead: tuple[Tensor, Tensor] | None = None


def rank_and_measure(logits: Tensor, ahead: Tensor | None = None, ladder: bool = False) -> Measured:
    """Rank logits, and measure them. The hints are those of `adaptive.entropy.measure`."""
    fused = _kernels(logits)
    if fused is not None:
        ranked = fused.rank(logits, ahead, ladder)
        return Measured(ranked, ranked.survey.moments, ranked.survey.columns, ranked.survey.ahead)
    ranked = rank(logits)
    space = room(logits, 4, len(logits))
    sums = []
    for part in chunks(logits, len(logits)):
        y = torch.sub(logits[part], ranked.best.top[part], out=space[3, : len(logits[part])])
        sums.append(_sums(y, ranked.best.ids[part], space[:3]))
    at_one = _moments(join(sums, -1))
    maximum = ranked.best.values[:, 0].double()
    columns = (at_one.entropy, at_one.varentropy, (-at_one.log_sum).exp(), maximum, maximum + at_one.log_sum)
    return Measured(ranked, at_one, columns)


def _kernels(logits: Tensor) -> ModuleType | None:
    return accelerator.kernels(logits.device) if logits.dtype == torch.float32 and logits.numel() else None


def tempered(
    ranked: Ranked,
    inverse: Tensor,
    rows: Tensor | None = None,
    order: int = 1,
    dtype: torch.dtype | None = None,
) -> Moments:
    """Moments up to `order` of softmax((logits - maximum) * inverse), `[n]`.

    inverse: `[n]`, of these rows, 1 / temperature. rows: which rows; None means all. dtype: to compute in; the logits'
    own if not given.
    """
    factor = inverse.to(dtype or ranked.logits.dtype)[:, None]
    space = room(factor.new_empty(0, ranked.logits.shape[-1]), order + 2, len(factor))
    sums = []
    for part in chunks(ranked.logits, len(factor)):
        chosen = part if rows is None else rows[part]
        y = ranked.scaled(chosen, factor[part], space[-1, : len(factor[part])])
        sums.append(_sums(y, ranked.best.ids[chosen], space[:-1]))
    return _moments(join(sums, -1))


def chunks(logits: Tensor, rows: int) -> list[slice]:
    """So many rows of logits `[..., vocab]` in portions that stay in the processor's cache from one operation to the
    next."""
    size = _chunk(logits, rows)
    return [slice(None)] if rows <= size else [slice(first, min(first + size, rows)) for first in range(0, rows, size)]


def _chunk(logits: Tensor, rows: int) -> int:
    return min(rows, max(4, CHUNK // logits.shape[-1])) if logits.device.type == "cpu" else rows


def room(logits: Tensor, count: int, rows: int) -> Tensor:
    """Room for `count` results of a chunk of so many rows, `[count, chunk, vocab]`: scratch."""
    return scratch("chunk", (count, _chunk(logits, rows), logits.shape[-1]), logits)


def join(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """What the chunks gave, together."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)


def _sums(y: Tensor, best: Tensor, space: Tensor) -> Tensor:
    """Sums of p, p y, ... , and the largest p, `[len(space) + 1, rows]`. best: a token with y = 0, `[rows, ...]`.

    softmax is used for exp: torch's exp takes longer than all of it. It leaves the sum of p a little off 1, which the
    caller divides by. Impossible tokens give 0 * -inf, which is NaN and does not count.
    """
    if len(y) < space.shape[1]:
        space = space[:, : len(y)]
    first, *others = space.unbind()
    p = power = torch.softmax(y, -1, out=first)
    for other in others:
        power = torch.mul(power, y, out=other)
    return torch.cat([row_nansums(space), p.gather(-1, best[:, :1]).T])


def row_nansums(space: Tensor) -> Tensor:
    """Sums of `[n, rows, vocab]` over the vocabulary without NaN, `[n, rows]`; the same bits in any company.

    Of more than a few numbers torch shares out the rows among threads, which takes longer to begin than to do for one
    short row; of one long row alone it would share out the row, and round otherwise.
    """
    if space.device.type == "cpu" and space[0].numel() <= _SHARED_OUT < space.numel():
        return torch.stack([torch.nansum(one, -1) for one in space.unbind()])
    return torch.nansum(space, -1)


def _moments(sums: Tensor) -> Moments:
    total, *powers, top = sums.double().unbind()
    # exp(0) = 1 is the largest summand, so its probability is 1 over the sum.
    means = [power / total for power in powers]
    return Moments((total / top).log_(), *means, *means[-1:] * (3 - len(means)))
