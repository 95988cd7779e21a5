"""Sums over whole rows in one visit, compiled for one size of vocabulary. Plain torch needs a visit an operation."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adaptive.compiled import Machine, compiled

_BLOCK = 256
"""Logits that are summed in float32; sums of blocks are in float64."""
_LOG2_E = 1.4426950408889634
_LOWEST = -70.0
"""e to what lies below it adds nothing to a sum of at least 1, but is slow to compute with where it is denormal."""

_machines: dict[tuple[int, Callable[..., Any]], Machine] = {}
"""By size of vocabulary and function. They are never taken away, as the last bits of a row hang on them."""


def compile_for(vocab: int) -> None:
    """Compile the sampler's visits to whole rows of so many float32 logits on the CPU, for this process.

    It takes seconds. Entropies have other last bits after it, so it belongs before the first step. CannotCompile if
    there is no C++ compiler or it fails; nothing has changed then.
    """
    if (vocab, _moments) not in _machines:
        number, column = (torch.int64, ("rows",)), (torch.float32, ("rows",))
        row = (torch.float32, ("rows", vocab))
        moments = compiled(_moments, (torch.float32, ("batch", vocab)), number, column, column)
        shares = compiled(_shares, row, row, row)
        _machines.update({(vocab, _moments): moments, (vocab, _shares): shares})


def _made(logits: Tensor, function: Callable[..., Any]) -> Machine | None:
    if logits.device.type != "cpu" or logits.dtype != torch.float32:
        return None
    return _machines.get((logits.shape[-1], function))


def compiled_moments(logits: Tensor) -> Callable[[Tensor | None, Tensor, Tensor], Tensor] | None:
    """What gives the moments of softmax((logits - largest) / T): from rows int64 `[n]`, None for all, the largest
    logits of all rows `[rows, 1]`, and 1 / T `[n]`, to the columns of `adaptive.moments.Moments`, float64 `[4, n]`.
    None if nothing was compiled for such logits."""
    made = _made(logits, _moments)
    if made is None:
        return None
    whole = logits.contiguous()

    def moments(rows: Tensor | None, largest: Tensor, inverse: Tensor) -> Tensor:
        chosen = torch.arange(len(inverse)) if rows is None else rows
        return made(whole, chosen, largest[chosen, 0], inverse.float())[0]

    return moments


def compiled_shares(logits: Tensor) -> Machine | None:
    """What gives sums over the tokens that are left: see `_shares`. None as above."""
    return _made(logits, _shares)


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


def _moments(logits: Tensor, rows: Tensor, largest: Tensor, inverse: Tensor) -> tuple[Tensor]:
    """See `compiled_moments`. largest: of the chosen rows. A row that is no distribution gives NaN."""
    sums = []
    for part in _blocks(logits):
        y = ((part[rows] - largest[:, None, None]) * inverse[:, None, None]).clamp_min(_LOWEST)
        # The compiler stores what exp gives, of whole rows, for a second visit; what exp2 gives it does not.
        powers = [(y * _LOG2_E).exp2()]
        for _ in range(3):
            powers.append(powers[-1] * y)
        sums.append([power.sum(-1).double().sum(-1) for power in powers])
    total, *others = [torch.stack(of_order).sum(0) for of_order in zip(*sums, strict=True)]
    return (torch.stack([total.log(), *(one / total for one in others)]),)
