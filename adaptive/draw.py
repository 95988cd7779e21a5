"""Random numbers from (seed, position) alone, and the draw of a token with one of them.

There is no generator and no state: the number for a position can be had at any time, in any order, in any company.
"""

import torch
from torch import Tensor

from adaptive.entropy import row_sum

_BLOCK = 256
_BELOW_ONE = 1.0 - 2.0**-52


def _signed(value: int) -> int:
    """An unsigned 64-bit constant as the int64 with the same bits."""
    return value - (1 << 64) if value >= 1 << 63 else value


_STEP = _signed(0x9E3779B97F4A7C15)
_MULTIPLIERS = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift of int64: zeros come in from the left."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014), int64 that wraps around."""
    x = (x ^ _shift_right(x, 30)) * _MULTIPLIERS[0]
    x = (x ^ _shift_right(x, 27)) * _MULTIPLIERS[1]
    return x ^ _shift_right(x, 31)


def uniform(seeds: Tensor, positions: Tensor) -> Tensor:
    """Uniform numbers in [0, 1), float64, one for each (seed, position). Both int64, any one shape.

    Seeds are unsigned 64-bit numbers, here as the int64 with the same bits. splitmix64 as a counter-based generator:
    output number `position` of the stream whose start is the mixed seed. As there, the first is one step beyond the
    start: the mix of 0 is 0, and a draw with 0 takes the first token that there is, however unlikely.
    """
    return _shift_right(_mix(_mix(seeds) + (positions + 1) * _STEP), 11).double() * 2.0**-53


def draw(weights: Tensor, u: Tensor) -> Tensor:
    """Draw a token of each row by inversion: the first whose cumulative weight exceeds u times the sum.

    weights: `[rows, vocab]`, at least 0, not all 0. u: float64 `[rows]` in [0, 1). Returns int64 `[rows]`.
    Two levels, blocks of 256 and the tokens of one block, so that only one block is summed token by token.
    A token of weight 0 is never drawn.
    """
    vocab = weights.shape[-1]
    rest = vocab % _BLOCK
    sums = row_sum(weights[:, : vocab - rest].unflatten(-1, (vocab // _BLOCK, _BLOCK)))
    if rest:
        sums = torch.cat([sums, row_sum(weights[:, vocab - rest :])[:, None]], -1)
    sums = sums.double()
    edges = sums.cumsum(-1)
    goal = u[:, None] * edges[:, -1:]
    block = first_above(edges, goal)
    places = block * _BLOCK + torch.arange(_BLOCK, device=weights.device)
    inside = weights.gather(-1, places.clamp(max=vocab - 1)).double().masked_fill_(places >= vocab, 0.0)
    token = block * _BLOCK + first_above(inside.cumsum(-1), goal - (edges - sums).gather(-1, block))
    return token[:, 0].clamp(max=vocab - 1)  # a row that is no distribution must not break the others


def first_above(sums: Tensor, goal: Tensor) -> Tensor:
    """First index whose cumulative weight is above goal, `[rows, 1]`. sums, goal: float64 `[rows, n]`, `[rows, 1]`.

    A goal that rounding has led up to the whole sum, or past it, is taken to be just below: the weight of the index
    found is above 0.
    """
    place = (sums <= torch.minimum(goal, sums[:, -1:] * _BELOW_ONE)).sum(-1, keepdim=True)
    return place.clamp_(max=sums.shape[-1] - 1)
