"""The random numbers of a step: `adaptive.draw.uniform` on the device."""

import triton
import triton.language as tl

_STEP, _FIRST, _SECOND = map(tl.constexpr, (-0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15))


@triton.jit
def _shifted(x, BITS: tl.constexpr):
    """Logical shift of int64: zeros come in from the left."""
    return (x >> BITS) & ((1 << (64 - BITS)) - 1)


@triton.jit
def _mix(x):
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


@triton.jit(do_not_specialize=["rows"])
def roll(seeds, positions, numbers, rows, ROWS_2: tl.constexpr):
    """The numbers of rows, float64 `[rows]`, of their seeds and positions, int64; the positions go on by one.

    Grid (1).
    """
    row = tl.arange(0, ROWS_2)
    there = row < rows
    seed, position = tl.load(seeds + row, mask=there, other=0), tl.load(positions + row, mask=there, other=0)
    number = _shifted(_mix(_mix(seed) + (position + 1) * _STEP), 11)
    tl.store(numbers + row, number.to(tl.float64) * 1.1102230246251565e-16, mask=there)
    tl.store(positions + row, position + 1, mask=there)
