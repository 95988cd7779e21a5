"""What the filters leave that keep the most likely tokens, and the draw from it."""

import triton
import triton.language as tl

from adaptive.gpu.kernels.survey import BEST, LOWEST, MAXIMUM, NONE, key_of, sum_of


@triton.jit
def _tile(row_logits, table, first, count, whole, vocab, TILE: tl.constexpr, BLOCK: tl.constexpr):
    """(ids, logits) of some blocks of those looked at: of the table, or all of the row."""
    place = first + tl.arange(0, TILE // BLOCK)
    there = place < count
    listed = place < tl.where(whole != 0, 0, count)
    block = tl.where(listed, tl.load(table + place, mask=listed, other=0), place)
    ids = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    z = tl.load(row_logits + ids, mask=there[:, None] & (ids < vocab), other=NONE).to(tl.float32)
    return ids, z + 0.0


@triton.jit
def _scaled(z, top, inverse, least):
    """(y, exp(y) or 0 if max_surprisal drops the token, whether it does not). least: the lowest y that it leaves."""
    y = (z - top) * inverse
    left = (z > NONE) & ((y.to(tl.float64) >= least) | (z == top))
    return y, tl.where(left, tl.exp(y), 0.0), left


@triton.jit
def _edge(
    row_logits, table, count, whole, vocab, top, inverse, least, goal, low, high, floor,
    MASS: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The largest key such that tokens with it or a larger one add up to the goal: their number, or with MASS what is
    left of exp(y) of those at or above the key `floor`. Between `low`, which is taken to do, and `high`."""
    while low < high:
        step = (high - low + 3) >> 2
        one = tl.minimum(low + step, high)
        two = tl.minimum(low + 2 * step, high)
        three = tl.minimum(low + 3 * step, high)
        sum_1 = tl.zeros([TILE // BLOCK, BLOCK], tl.float64)
        sum_2, sum_3 = sum_1, sum_1
        for first in range(0, count, TILE // BLOCK):
            _, z = _tile(row_logits, table, first, count, whole, vocab, TILE, BLOCK)
            _, p, left = _scaled(z, top, inverse, least)
            key = key_of(z)
            weight = tl.where(key >= floor, p, 0.0) if MASS else left.to(tl.float32)
            weight = weight.to(tl.float64)
            key = key.to(tl.int64)
            sum_1 += tl.where(key >= one, weight, 0.0)
            sum_2 += tl.where(key >= two, weight, 0.0)
            sum_3 += tl.where(key >= three, weight, 0.0)
        if sum_of(sum_3) >= goal:
            low = three
        elif sum_of(sum_2) >= goal:
            low = two
            high = three - 1
        elif sum_of(sum_1) >= goal:
            low = one
            high = two - 1
        else:
            high = one - 1
    return low


@triton.jit
def _kept(ids, z, y, left, floor, lowest, edge):
    """What all filters leave: keys from `floor` on, of those with its very key the ids from `edge` on."""
    key = key_of(z)
    return left & ((key > floor) | ((key == floor) & (ids >= edge))) & ((y.to(tl.float64) >= lowest) | (y == 0.0))


@triton.jit
def keep_leading(
    logits, found, table, cuts, partial, inverses, top_k, top_p, min_p, surprisal, greedy, figures, bounds, limits,
    vocab, keep, blocks, parts, PARTS_2: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """max_surprisal, top_k, top_p and min_p, in this order, and what is left.

    Grid (rows). partial: of `temper`. top_k, top_p, min_p, surprisal: float64 `[rows]`, NaN where off. greedy: int8.
    figures: float64 `[6, rows]`, `adaptive.pool.FIGURES`. bounds: int64 `[3, rows]`: floor, edge (see `_kept`), and how
    many blocks to look at, less than 0 if the whole row. limits: float64 `[3, rows]`: least (see `_scaled`), lowest,
    and the sum of what is left of exp(y).
    """
    row, rows = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    row_logits, row_table = logits + row * vocab, table + row * keep
    part = tl.arange(0, PARTS_2)
    at = partial + (row * parts + part) * 2
    total = tl.sum(tl.load(at, mask=part < parts, other=0.0), 0)
    mean = tl.sum(tl.load(at + 1, mask=part < parts, other=0.0), 0)
    top = tl.load(found + MAXIMUM * rows + row).to(tl.float32) + 0.0
    inverse_64 = tl.load(inverses + row)
    inverse = inverse_64.to(tl.float32)
    k, p = tl.load(top_k + row), tl.load(top_p + row)
    low_p, most = tl.load(min_p + row), tl.load(surprisal + row)
    takes_best = tl.load(greedy + row) != 0
    log_sum = tl.log(total)
    least = tl.where(most == most, log_sum - most, NONE).to(tl.float64)
    lowest = tl.where(low_p > 0, tl.log(tl.where(low_p > 0, low_p, 1.0)), NONE).to(tl.float64)

    # Which tokens to look at: those of the table, if the last one that is left is sure to be among them.
    count = tl.load(cuts + row * 2)
    cut = tl.load(cuts + row * 2 + 1)
    whole = tl.zeros([], tl.int32)
    in_table, table_mass = tl.zeros([TILE // BLOCK, BLOCK], tl.float64), tl.zeros([TILE // BLOCK, BLOCK], tl.float64)
    no_surprise, no_ratio = tl.zeros([TILE // BLOCK, BLOCK], tl.int32), tl.zeros([TILE // BLOCK, BLOCK], tl.int32)
    for first in range(0, count, TILE // BLOCK):
        ids, z = _tile(row_logits, row_table, first, count, whole, vocab, TILE, BLOCK)
        y, weight, left = _scaled(z, top, inverse, least)
        above = left & (key_of(z) >= cut)
        in_table += above.to(tl.float64)
        table_mass += tl.where(above, weight, 0.0).to(tl.float64)
        no_surprise += ((key_of(z) >= cut) & (y.to(tl.float64) < least)).to(tl.int32)
        no_ratio += ((key_of(z) >= cut) & (y.to(tl.float64) < lowest)).to(tl.int32)
    has_k, has_p = k == k, p < 1.0
    by_k = has_k & (k <= sum_of(in_table))
    by_p = (k != k) & (most != most) & has_p & (p * total <= sum_of(table_mass))
    # A token of the table is too unlikely already, and so are all that are less likely.
    by_surprise = sum_of(no_surprise) > 0
    by_ratio = (sum_of(no_ratio) > 0) & ((p >= 1.0) | (p != p) | ((k != k) & (most != most)))
    sure = by_k | by_p | by_surprise | by_ratio | takes_best | (count == blocks)
    whole = tl.where(sure, 0, 1)
    count = tl.where(sure, count, blocks)

    low = tl.where(sure, cut, LOWEST).to(tl.int64)
    high = key_of(top).to(tl.int64)
    floor = low
    if has_k:
        floor = _edge(
            row_logits, row_table, count, whole, vocab, top, inverse, least, k, low, high, floor, False, TILE, BLOCK
        )
    edge = tl.zeros([], tl.int64)
    if has_p:
        mass = total
        if has_k | (most == most):
            sums = tl.zeros([TILE // BLOCK, BLOCK], tl.float64)
            for first in range(0, count, TILE // BLOCK):
                ids, z = _tile(row_logits, row_table, first, count, whole, vocab, TILE, BLOCK)
                y, weight, left = _scaled(z, top, inverse, least)
                sums += tl.where(key_of(z) >= floor, weight, 0.0).to(tl.float64)
            mass = sum_of(sums)
        goal = p * mass
        by_mass = _edge(
            row_logits, row_table, count, whole, vocab, top, inverse, least, goal, floor, high, floor, True, TILE, BLOCK
        )
        # Its edge may part equals, of which the higher ids stay.
        sums = tl.zeros([TILE // BLOCK, BLOCK], tl.float64)
        equals = tl.zeros([TILE // BLOCK, BLOCK], tl.int32)
        each = tl.zeros([TILE // BLOCK, BLOCK], tl.float32)
        for first in range(0, count, TILE // BLOCK):
            ids, z = _tile(row_logits, row_table, first, count, whole, vocab, TILE, BLOCK)
            y, weight, left = _scaled(z, top, inverse, least)
            key = key_of(z)
            sums += tl.where((key >= floor) & (key > by_mass), weight, 0.0).to(tl.float64)
            equals += (left & (key == by_mass)).to(tl.int32)
            each = tl.maximum(each, tl.where(key == by_mass, weight, 0.0))
        one = tl.max(tl.max(each, 1), 0).to(tl.float64)
        needed = tl.where(one > 0, tl.ceil((goal - sum_of(sums)) / tl.where(one > 0, one, 1.0)), 1.0)
        spare = sum_of(equals) - tl.maximum(needed, 1.0).to(tl.int64)
        floor = by_mass
        if spare > 0:
            seen = tl.zeros([], tl.int64)
            for first in range(0, count, TILE // BLOCK):
                ids, z = _tile(row_logits, row_table, first, count, whole, vocab, TILE, BLOCK)
                tied = tl.reshape((key_of(z) == floor).to(tl.int32), [TILE])
                running = seen + tl.cumsum(tied, 0)
                here = (tied != 0) & (running == spare + 1)
                edge += tl.sum(tl.where(here, tl.reshape(ids, [TILE]), 0), 0)
                seen += tl.sum(tied, 0)
    sums = tl.zeros([TILE // BLOCK, BLOCK], tl.float64)
    inner = tl.zeros([TILE // BLOCK, BLOCK], tl.float64)
    number = tl.zeros([TILE // BLOCK, BLOCK], tl.int32)
    for first in range(0, count, TILE // BLOCK):
        ids, z = _tile(row_logits, row_table, first, count, whole, vocab, TILE, BLOCK)
        y, weight, left = _scaled(z, top, inverse, least)
        kept = _kept(ids, z, y, left, floor, lowest, edge)
        weight = tl.where(kept, weight, 0.0).to(tl.float64)
        sums += weight
        inner += weight * tl.where(weight > 0, y, 0.0).to(tl.float64)
        number += kept.to(tl.int32)
    mass = tl.where(takes_best, 1.0, sum_of(sums))
    tl.store(figures + row, mass / total)
    tl.store(figures + rows + row, tl.where(takes_best, 0.0, tl.log(mass) - sum_of(inner) / mass))
    tl.store(figures + 2 * rows + row, tl.where(takes_best, 1.0, sum_of(number).to(tl.float64)))
    tl.store(figures + 3 * rows + row, 1.0 / mass)
    tl.store(figures + 4 * rows + row, log_sum)
    tl.store(figures + 5 * rows + row, tl.maximum(log_sum - mean / total, 0.0))
    tl.store(bounds + row, floor)
    tl.store(bounds + rows + row, edge)
    tl.store(bounds + 2 * rows + row, tl.where(sure, count, -1).to(tl.int64))
    tl.store(limits + row, least)
    tl.store(limits + rows + row, lowest)
    tl.store(limits + 2 * rows + row, mass)


@triton.jit
def draw(
    logits, found, table, inverses, greedy, bounds, limits, numbers, tokens, larger, vocab, keep, blocks,
    TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A token by inversion over what is left, in the order of ids, and how many logits are larger than its own.

    Grid (rows). numbers: float64 `[rows]` in [0, 1). tokens, larger: int64 `[rows]`. The rest as in `keep_leading`.
    """
    row, rows = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    row_logits, row_table = logits + row * vocab, table + row * keep
    top = tl.load(found + MAXIMUM * rows + row).to(tl.float32) + 0.0
    inverse = tl.load(inverses + row).to(tl.float32)
    floor, edge = tl.load(bounds + row), tl.load(bounds + rows + row)
    count = tl.load(bounds + 2 * rows + row)
    whole = tl.where(count < 0, 1, 0)
    count = tl.where(count < 0, blocks, count).to(tl.int32)
    least, lowest, mass = tl.load(limits + row), tl.load(limits + rows + row), tl.load(limits + 2 * rows + row)
    goal = tl.load(numbers + row) * mass
    best = tl.load(found + BEST * rows + row).to(tl.int64)
    token, last = tl.zeros([], tl.int64) - 1, best
    before = tl.zeros([], tl.float64)
    first = tl.zeros([], tl.int32)
    while (first < count) & (token < 0):
        ids, z = _tile(row_logits, row_table, first, count, whole, vocab, TILE, BLOCK)
        y, weight, left = _scaled(z, top, inverse, least)
        kept = _kept(ids, z, y, left, floor, lowest, edge)
        weight = tl.reshape(tl.where(kept, weight, 0.0).to(tl.float64), [TILE])
        ids = tl.reshape(ids, [TILE])
        sums = before + tl.cumsum(weight, 0)
        above = (sums > goal) & (weight > 0)
        lowest_id = tl.min(tl.where(above, ids, vocab), 0)
        token = tl.where(lowest_id < vocab, lowest_id, -1).to(tl.int64)
        last = tl.maximum(last, tl.max(tl.where(weight > 0, ids, -1), 0).to(tl.int64))
        before += tl.sum(weight, 0)
        first += TILE // BLOCK
    # Rounding may lead the goal past the last sum.
    token = tl.where(token < 0, last, token)
    token = tl.where(tl.load(greedy + row) != 0, best, token)
    token = tl.minimum(tl.maximum(token, 0), vocab - 1)
    own = tl.load(row_logits + token).to(tl.float32)
    number = tl.zeros([TILE // BLOCK, BLOCK], tl.int32)
    for start in range(0, count, TILE // BLOCK):
        ids, z = _tile(row_logits, row_table, start, count, whole, vocab, TILE, BLOCK)
        number += (z > own).to(tl.int32)
    tl.store(tokens + row, token)
    tl.store(larger + row, sum_of(number).to(tl.int64))
