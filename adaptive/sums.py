"""Sums over whole rows in one visit, compiled for one size of vocabulary. Plain torch needs a visit an operation."""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from adaptive.compiled import NUMBERS, VOCABULARY, Argument, Compilable, Machine, compilable

_BLOCK = 256
"""Logits that are summed in float32; sums of blocks are in float64."""
_LOG2_E = 1.4426950408889634
_LOWEST = -70.0
"""e to what lies below it adds nothing to a sum of at least 1, but is slow to compute with where it is denormal."""

_ROW = Argument(torch.float32, ("rows", VOCABULARY))


def _made(function: Compilable, logits: Tensor) -> Machine | None:
    if logits.device.type != "cpu" or logits.dtype != torch.float32:
        return None
    return function.machine(logits.shape[-1])


def compiled_moments(logits: Tensor) -> Callable[[Tensor | None, Tensor, Tensor | None], Tensor] | None:
    """What gives, of softmax((logits - largest) / T), the columns of `adaptive.moments.Moments` and the first five of
    `adaptive.entropy.Statistics`, float64 `[9, n]`. None if nothing was compiled for such logits.

    It takes rows int64 `[n]`, None for all, as often as 1 / T has values for them; the largest logits of all rows
    `[rows, 1]`; and 1 / T float64 `[n]`, None for 1.
    """
    made = _made(_moments, logits)
    if made is None:
        return None
    whole = logits.contiguous()

    def moments(rows: Tensor | None, largest: Tensor, inverse: Tensor | None) -> Tensor:
        if inverse is None:
            inverse = torch.ones(len(largest), dtype=torch.float64)
        if rows is None:
            rows = _numbers(len(largest), len(inverse) // len(largest))
        return made(whole, rows, largest.contiguous(), inverse)[0]

    return moments


@lru_cache(128)
def _numbers(rows: int, times: int) -> Tensor:
    return torch.arange(rows).repeat(times)


def compiled_shares(logits: Tensor) -> Machine | None:
    """What gives sums over the tokens that are left: see `_shares`. None as above."""
    return _made(_shares, logits)


@compilable(_ROW, _ROW, _ROW)
def _shares(p: Tensor, y: Tensor, left: Tensor) -> tuple[Tensor]:
    """The sums of p, p y, left, p left and p y left over whole rows, and the largest p left; float64 `[6, rows]`.

    p: softmax(y); left: 1 for the tokens that are left, 0 for others; all `[rows, vocab]`.
    """
    found: list[list[Tensor]] = []
    for part, of_y, kept in zip(*map(_blocks, (p, y, left)), strict=True):
        inner = part * of_y.clamp_min(_LOWEST)
        sums = [one.sum(-1).double().sum(-1) for one in (part, inner, kept, part * kept, inner * kept)]
        found.append([*sums, (part * kept).amax((-1, -2)).double()])
    *sums, largest = (torch.stack(one) for one in zip(*found, strict=True))
    return (torch.stack([*(one.sum(0) for one in sums), largest.amax(0)]),)


def _blocks(rows: Tensor) -> list[Tensor]:
    """Rows `[rows, vocab]` as blocks and what is left over, each `[rows, blocks, size]`, if it is not empty."""
    whole = rows.shape[-1] // _BLOCK * _BLOCK
    return [part for part in (rows[:, :whole].unflatten(-1, (-1, _BLOCK)), rows[:, None, whole:]) if part.numel()]


@compilable(
    Argument(torch.float32, ("batch", VOCABULARY)),
    Argument(torch.int64, ("rows",)),
    Argument(torch.float32, ("batch", 1)),
    NUMBERS,
)
def _moments(logits: Tensor, rows: Tensor, largest: Tensor, inverse: Tensor) -> tuple[Tensor]:
    """See `compiled_moments`. A row that is no distribution gives NaN."""
    top, factor = largest[rows, 0], inverse.float()
    sums = []
    for part in _blocks(logits):
        y = ((part[rows] - top[:, None, None]) * factor[:, None, None]).clamp_min(_LOWEST)
        # The compiler stores what exp gives, of whole rows, for a second visit; what exp2 gives it does not.
        powers = [(y * _LOG2_E).exp2()]
        for _ in range(3):
            powers.append(powers[-1] * y)
        sums.append([power.sum(-1).double().sum(-1) for power in powers])
    total, *others = [torch.stack(of_order).sum(0) for of_order in zip(*sums, strict=True)]
    mean, square, cube = (one / total for one in others)
    log_sum, maximum = total.log(), top.double()
    entropy, varentropy = (log_sum - mean).clamp_min(0.0), (square - mean.square()).clamp_min(0.0)
    columns = (entropy, varentropy, 1.0 / total, maximum, maximum + log_sum)
    return (torch.stack([log_sum, mean, square, cube, *columns]),)
