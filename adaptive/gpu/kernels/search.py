"""The temperature at which a row has a given entropy."""

import triton
import triton.language as tl

from adaptive.gpu.kernels.survey import MAXIMUM, NONE


@triton.jit
def _moments(row_logits, vocab, top, inverse, TILE: tl.constexpr, TYPE: tl.constexpr):
    """(entropy, varentropy) of softmax((logits - maximum) * inverse) of a whole row."""
    total, mean, square = tl.zeros([TILE], TYPE), tl.zeros([TILE], TYPE), tl.zeros([TILE], TYPE)
    for start in range(0, vocab, TILE):
        ids = start + tl.arange(0, TILE)
        z = tl.load(row_logits + ids, mask=ids < vocab, other=NONE).to(TYPE)
        y = (z - top.to(TYPE)) * inverse.to(TYPE)
        p = tl.exp(y)
        y = tl.where(p > 0, y, 0.0)
        total += p
        mean += p * y
        square += p * y * y
    t = tl.sum(total.to(tl.float64), 0)
    m = tl.sum(mean.to(tl.float64), 0) / t
    s = tl.sum(square.to(tl.float64), 0) / t
    return tl.maximum(tl.log(t) - m, 0.0), tl.maximum(s - m * m, 0.0)


@triton.jit
def search(
    logits, found, index, targets, bottoms, tops, columns, vocab, rows, near, rest, first, rounds,
    TILE: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """`adaptive.search._search`, of one row, with steps of Newton: see there.

    Grid (members). index: int64, the row of each. columns: float64 `[6, members]`, read and written: u, saturated,
    entropy, slope, done. first: whether entropy and slope at u = 0 are there.
    """
    member, members = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    row = tl.load(index + member)
    top = tl.load(found + MAXIMUM * rows + row)
    target = tl.load(targets + member)
    bottom, ceiling = tl.load(bottoms + member), tl.load(tops + member)
    u = tl.load(columns + member)
    saturated = tl.load(columns + members + member).to(tl.int32)
    h = tl.load(columns + 2 * members + member)
    slope = tl.load(columns + 3 * members + member)
    done = tl.load(columns + 4 * members + member).to(tl.int32)
    low, high = bottom, ceiling
    tried_low, tried_high = tl.zeros([], tl.int32), tl.zeros([], tl.int32)
    known = (u == 0.0) & (first != 0)
    rounds_left = tl.zeros([], tl.int32) + rounds
    while (rounds_left > 0) & (done == 0):
        rounds_left -= 1
        if known == 0:
            h, slope = _moments(logits + row * vocab, vocab, top, tl.exp(-u), TILE, TYPE)
        known = u != u  # false
        error = target - h
        cold, hot = u <= bottom, u >= ceiling
        beyond = (hot & (error > near)) | (cold & (error < -near))
        saturated = tl.where(beyond, 1, 0)
        done = tl.where(beyond | (tl.abs(error) <= near) | (error != error), 1, 0)
        low, high = tl.where(error > 0, u, low), tl.where(error > 0, high, u)
        tried_low = tl.where(cold, 1, tried_low)
        tried_high = tl.where(hot, 1, tried_high)
        # h = 0 gives no step, and a target of 0 none downwards: both leave the bracket.
        flat = h <= 0.0
        safe = tl.where(flat, 1.0, h)
        step = tl.where(flat, float("inf"), tl.log(target / safe) * safe / tl.maximum(slope, 1e-300))
        newton = u + step
        middle = (low + high) / 2
        goal = tl.where((newton >= high) & (tried_high == 0), ceiling, middle)
        goal = tl.where((newton <= low) & (tried_low == 0), bottom, goal)
        inside = (newton > low) & (newton < high)
        u = tl.where(done != 0, u, tl.where(inside, newton, goal))
        small = inside & (tl.abs(step) < 1e-2) & (tl.abs(error * step) < rest)
        done = tl.where(small, 1, done)
    tl.store(columns + member, u)
    tl.store(columns + members + member, saturated.to(tl.float64))
    tl.store(columns + 2 * members + member, h)
    tl.store(columns + 3 * members + member, slope)
    tl.store(columns + 4 * members + member, done.to(tl.float64))
