"""Moments of whole rows in one visit, compiled for one size of vocabulary. Plain torch needs a visit an operation."""

from collections.abc import Callable

import torch
from torch import Tensor

from adaptive.compiled import Machine, compiled

_BLOCK = 256
"""Logits that are summed in float32; sums of blocks are in float64."""
_LOG2_E = 1.4426950408889634
_LOWEST = -100.0
"""Binary logarithm of what adds nothing to a sum of 1 and more in float64, and is far from where arithmetic is slow."""

_machines: dict[int, Machine] = {}
"""By size of vocabulary. They are never taken away, as the last bits of a row hang on them."""


def compile_for(vocab: int) -> None:
    """Compile the sampler's visits to whole rows of so many float32 logits on the CPU, for this process.

    It takes seconds. Entropies have other last bits after it, so it belongs before the first step. CannotCompile if
    there is no C++ compiler or it fails; nothing has changed then.
    """
    if vocab not in _machines:
        number, column = (torch.int64, ("rows",)), (torch.float32, ("rows",))
        _machines[vocab] = compiled(_moments, (torch.float32, ("batch", vocab)), number, column, column)


def compiled_moments(logits: Tensor) -> Callable[[Tensor | None, Tensor, Tensor], Tensor] | None:
    """What gives the moments of softmax((logits - largest) / T): from rows int64 `[n]`, None for all, the largest
    logits of all rows `[rows, 1]`, and 1 / T `[n]`, to the columns of `adaptive.moments.Moments`, float64 `[4, n]`.
    None if nothing was compiled for such logits."""
    made = _machines.get(logits.shape[-1])
    if made is None or logits.device.type != "cpu" or logits.dtype != torch.float32:
        return None
    whole = logits.contiguous()

    def moments(rows: Tensor | None, largest: Tensor, inverse: Tensor) -> Tensor:
        chosen = torch.arange(len(inverse)) if rows is None else rows
        return made(whole, chosen, largest[chosen, 0], inverse.float())[0]

    return moments


def _moments(logits: Tensor, rows: Tensor, largest: Tensor, inverse: Tensor) -> tuple[Tensor]:
    """See `compiled_moments`. largest: of the chosen rows. A row that is no distribution gives NaN."""
    whole = logits.shape[-1] // _BLOCK * _BLOCK
    parts = [logits[:, :whole].unflatten(-1, (-1, _BLOCK)), logits[:, None, whole:]]
    sums = []
    for part in parts:
        if part.numel():
            y = (part[rows] - largest[:, None, None]) * (inverse * _LOG2_E)[:, None, None]
            y = y.clamp_min(_LOWEST)
            # The compiler stores what exp gives, of whole rows, for a second visit; what exp2 gives it does not.
            powers = [y.exp2()]
            for _ in range(3):
                powers.append(powers[-1] * y)
            sums.append([power.sum(-1).double().sum(-1) for power in powers])
    total, *others = [torch.stack(of_order).sum(0) for of_order in zip(*sums, strict=True)]
    means = [one / _LOG2_E**order / total for order, one in enumerate(others, 1)]
    return (torch.stack([total.log(), *means]),)
