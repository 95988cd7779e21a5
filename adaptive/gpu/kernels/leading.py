"""What the filters leave that keep the most likely tokens."""

import triton
import triton.language as tl

from adaptive.gpu.kernels.survey import (
    COUNTERS,
    GONE,
    LEFT,
    LOWEST,
    MAXIMUM,
    MET,
    NONE,
    WAITING,
    eight,
    fresh,
    inverse_of,
    key_of,
    last_of,
)

# What a pass over tokens sums up; see `_sums`.
_AT_HAND, _REACHED, _EQUALS, _KEPT = map(tl.constexpr, range(4))
# Of a part of a row in a pass: its eight sums, and the lowest and the highest key between two bounds.
EXCHANGED = tl.constexpr(10)
_LARGEST = tl.constexpr(2147483647)


@triton.jit
def tile(row_logits, row_table, part, count, vocab, WHOLE: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr):
    """(ids, logits) `[TILE]`: a part of the row, or the `count` blocks of the table."""
    place = tl.arange(0, TILE // BLOCK)
    if WHOLE:
        block = part * (TILE // BLOCK) + place
        there = block >= 0
    else:
        there = place < count
        block = tl.load(row_table + place, mask=there, other=0)
    ids = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    z = tl.load(row_logits + ids, mask=there[:, None] & (ids < vocab), other=NONE).to(tl.float32)
    return tl.reshape(ids, [TILE]), tl.reshape(z + 0.0, [TILE])


@triton.jit
def scaled(z, top, inverse, least):
    """(y, exp(y) or 0 if max_surprisal drops the token, whether it does not). least: the lowest y that it leaves."""
    y = (z - top) * inverse
    left = (z > NONE) & ((y.to(tl.float64) >= least) | (z == top))
    return y, tl.where(left, tl.exp(y), 0.0), left


@triton.jit
def kept(ids, z, y, left, floor, lowest, edge):
    """What all filters leave: keys from `floor` on, of those with its very key the ids from `edge` on."""
    key = key_of(z)
    return left & ((key > floor) | ((key == floor) & (ids >= edge))) & ((y.to(tl.float64) >= lowest) | (y == 0.0))


@triton.jit
def _above(key, weight, low, step, high, place):
    """What the tokens weigh whose key is at least the threshold with this place between two bounds."""
    return tl.where(key >= tl.minimum(low + place * step, high).to(tl.int32), weight, 0.0)


@triton.jit
def _sums(ids, z, top, inverse, least, lowest, floor, edge, low, step, high, MODE: tl.constexpr):
    """Eight sums over a tile, and the lowest and the highest key that it has from `low` to `high`.

    _AT_HAND: from the key `floor` on, how many tokens there are and their mass, and how many are too unlikely for
    max_surprisal, and for min_p. _REACHED: of tokens from the key `floor` on, the number, or the mass if `edge` is not
    0, from each of the thresholds low + step, low + 2 step, ... on; the first sum is 0. _EQUALS: the mass above the key
    `low` of those from `floor` on, and how many have just that key. _KEPT: mass, mass times y, and number of what is
    left.
    """
    y, p, left = scaled(z, top, inverse, least)
    key = key_of(z)
    zeros = tl.zeros_like(y)
    lowest_key, highest_key = tl.zeros([], tl.int64), tl.zeros([], tl.int64)
    if MODE == _REACHED:
        weight = tl.where(key >= floor, tl.where(edge != 0, p, left.to(tl.float32)), 0.0)
        sums = eight(
            zeros, _above(key, weight, low, step, high, 1), _above(key, weight, low, step, high, 2),
            _above(key, weight, low, step, high, 3), _above(key, weight, low, step, high, 4),
            _above(key, weight, low, step, high, 5), _above(key, weight, low, step, high, 6),
            _above(key, weight, low, step, high, 7),
        )  # fmt: skip
        within = (key >= low) & (key <= high)
        lowest_key = tl.min(tl.where(within, key, _LARGEST), 0).to(tl.int64)
        highest_key = tl.max(tl.where(within, key, LOWEST), 0).to(tl.int64)
    elif MODE == _EQUALS:
        mass = tl.where((key >= floor) & (key > low), p, 0.0)
        equals = (left & (key == low)).to(tl.float32)
        sums = eight(mass, equals, zeros, zeros, zeros, zeros, zeros, zeros)
    elif MODE == _KEPT:
        stays = kept(ids, z, y, left, floor, lowest, edge)
        weight = tl.where(stays, p, 0.0)
        inner = weight * tl.where(weight > 0, y, 0.0)
        sums = eight(weight, inner, stays.to(tl.float32), zeros, zeros, zeros, zeros, zeros)
    else:
        here = key >= floor
        y_64 = y.to(tl.float64)
        number, mass = (left & here).to(tl.float32), tl.where(here, p, 0.0)
        surprising, unlikely = (here & (y_64 < least)).to(tl.float32), (here & (y_64 < lowest)).to(tl.float32)
        sums = eight(number, mass, surprising, unlikely, zeros, zeros, zeros, zeros)
    return sums, lowest_key, highest_key


@triton.jit
def _meet(counter, programs, turn):
    """Wait until all programs of a row have come here for the turn-th time, counted from 0: they all run at once."""
    tl.debug_barrier()
    arrived = tl.atomic_add(counter, 1, sem="acq_rel") + 1
    while arrived < (turn + 1) * programs:
        arrived = tl.atomic_add(counter, 0, sem="acq_rel")
    tl.debug_barrier()


@triton.jit
def _pass(
    row_logits, row_table, count, vocab, counters, space, parts, program, programs, turn,
    top, inverse, least, lowest, floor, edge, low, step, high,
    MODE: tl.constexpr, WHOLE: tl.constexpr, PARTS_2: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`_sums` over the table, or with WHOLE over the row: each program of the row sums up some of its parts, and then
    all do so with the sums of all parts. Of _KEPT they stay in the third of the places for them; the others take turns
    with the first two, so that nobody writes where another still reads."""
    if WHOLE:
        at = space + (2 if MODE == _KEPT else turn % 2) * parts * EXCHANGED
        for part in range(program, parts, programs):
            ids, z = tile(row_logits, row_table, part, count, vocab, WHOLE, TILE, BLOCK)
            sums, lowest_key, highest_key = _sums(
                ids, z, top, inverse, least, lowest, floor, edge, low, step, high, MODE
            )
            tl.store(at + part * EXCHANGED + tl.arange(0, 8), sums)
            tl.store(at + part * EXCHANGED + 8, lowest_key.to(tl.float64))
            tl.store(at + part * EXCHANGED + 9, highest_key.to(tl.float64))
        _meet(counters + MET, programs, turn)
        part = tl.arange(0, PARTS_2)
        there = part < parts
        of = at + part * EXCHANGED
        sums = tl.sum(fresh(of[:, None] + tl.arange(0, 8)[None, :], there[:, None]), 0)
        lowest_key = tl.min(fresh(of + 8, there, 2147483647.0), 0).to(tl.int64)
        highest_key = tl.max(fresh(of + 9, there, -2147483648.0), 0).to(tl.int64)
    else:
        ids, z = tile(row_logits, row_table, 0, count, vocab, WHOLE, TILE, BLOCK)
        sums, lowest_key, highest_key = _sums(ids, z, top, inverse, least, lowest, floor, edge, low, step, high, MODE)
    return sums, lowest_key, highest_key


@triton.jit
def _pick(sums, place):
    """One of `[8]`."""
    return tl.sum(tl.where(tl.arange(0, 8) == place, sums, 0.0), 0)


@triton.jit
def _edge(
    row_logits, row_table, count, vocab, counters, space, parts, program, programs, turn,
    top, inverse, least, goal, low, high, floor, by_mass,
    WHOLE: tl.constexpr, PARTS_2: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """(the largest key such that tokens with it or a larger one add up to the goal, the next turn): their number, or
    with `by_mass` not 0 their mass, of those at or above the key `floor`. Between `low`, which is taken to do, and
    `high`.

    Seven thresholds a pass. A key that no token has is none: the bounds go on to those that there are.
    """
    eighth = tl.arange(0, 8)
    while low < high:
        step = (high - low + 7) >> 3
        sums, lowest_key, highest_key = _pass(
            row_logits, row_table, count, vocab, counters, space, parts, program, programs, turn,
            top, inverse, least, least, floor, by_mass, low, step, high, _REACHED, WHOLE, PARTS_2, TILE, BLOCK,
        )  # fmt: skip
        turn += 1
        reached = tl.sum(((eighth > 0) & (sums >= goal)).to(tl.int64), 0)
        below = tl.where(reached < 7, tl.minimum(low + (reached + 1) * step, high) - 1, high)
        low = tl.maximum(tl.minimum(low + reached * step, high), tl.minimum(lowest_key, high))
        high = tl.maximum(tl.minimum(below, tl.maximum(highest_key, low)), low)
    return low, turn


@triton.jit
def _asked(found, log_sums, temperatures, top_k, top_p, min_p, surprisal, drops, row, rows):
    """(top, inverse, top_k, top_p, max_surprisal, least, lowest, sum of exp(y)) of a row; see `keep`."""
    log_sum, low_p = tl.load(log_sums + row), tl.load(min_p + row)
    top = tl.load(found + MAXIMUM * rows + row).to(tl.float32) + 0.0
    inverse = inverse_of(tl.load(temperatures + row)).to(tl.float32)
    most = tl.zeros([], tl.float64) + float("nan")
    if drops != 0:
        most = tl.load(surprisal + row)
    least = tl.where(most == most, log_sum - most, NONE).to(tl.float64)
    lowest = tl.where(low_p > 0, tl.log(tl.where(low_p > 0, low_p, 1.0)), NONE).to(tl.float64)
    return top, inverse, tl.load(top_k + row), tl.load(top_p + row), most, least, lowest, tl.exp(log_sum)


@triton.jit(do_not_specialize=["blocks", "parts", "drops"])
def keep(
    logits, found, table, cuts, log_sums, entropies, temperatures, top_k, top_p, min_p, surprisal, counters, queue,
    figures, bounds, limits, vocab, width, blocks, parts, drops,
    PARTS_2: tl.constexpr, TABLE: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """max_surprisal, top_k, top_p and min_p, in this order, and what is left: of rows whose last token that is left is
    sure to be in their table. The others queue for `keep_whole`.

    Grid (rows). The table of a row, `[rows, width]`, is one tile, of `TABLE` tokens. log_sums, entropies: after
    temperature. top_k, top_p, min_p, surprisal: float64 `[rows]`, NaN where off; surprisal only if `drops` is not 0. A
    temperature of 0 leaves the most likely token. figures: float64 `[6, rows]`, `adaptive.pool.FIGURES`. bounds: int64
    `[3, rows]`: floor, edge (see `kept`), and how many blocks of the table to look at, less than 0 if the whole row.
    limits: float64 `[3, rows]`: least (see `scaled`), lowest, and the sum of what is left of exp(y). queue: int32
    `[rows]`.
    """
    row, rows = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    row_logits, row_table = logits + row * vocab, table + row * width
    top, inverse, k, p, most, least, lowest, total = _asked(
        found, log_sums, temperatures, top_k, top_p, min_p, surprisal, drops, row, rows
    )
    takes_best = tl.load(temperatures + row) == 0.0
    count, cut = tl.load(cuts + row * 2), tl.load(cuts + row * 2 + 1).to(tl.int64)
    ids, z = tile(row_logits, row_table, 0, count, vocab, False, TABLE, BLOCK)
    sums, _, _ = _sums(ids, z, top, inverse, least, lowest, cut, 0, cut, cut, cut, _AT_HAND)
    alone = (k != k) & (most != most)
    by_k = (k == k) & (k <= _pick(sums, 0))
    by_p = alone & (p < 1.0) & (p * total <= _pick(sums, 1))
    # A token of the table is too unlikely already, and so are all that are less likely.
    by_surprise = _pick(sums, 2) > 0
    by_ratio = (_pick(sums, 3) > 0) & ((p >= 1.0) | (p != p) | alone)
    if by_k | by_p | by_surprise | by_ratio | takes_best | (count == blocks):
        highest = key_of(top).to(tl.int64)
        floor, edge, sums = _floor(
            row_logits, row_table, count, vocab, counters, figures, parts, 0, 1, top, inverse, least, lowest,
            k, p, most, total, cut, highest, highest, False, PARTS_2, TABLE, BLOCK,
        )  # fmt: skip
        tl.store(bounds + 2 * rows + row, count.to(tl.int64))
        _leave(
            figures, bounds, limits, row, rows, floor, edge, sums, takes_best, total,
            tl.load(entropies + row), least, lowest,
        )  # fmt: skip
    else:
        tl.store(bounds + 2 * rows + row, -1)
        tl.store(queue + tl.atomic_add(counters + WAITING, 1), row.to(tl.int32))


@triton.jit(do_not_specialize=["parts", "drops"])
def keep_whole(
    logits, found, table, cuts, log_sums, entropies, temperatures, top_k, top_p, min_p, surprisal, counters, queue,
    space, figures, bounds, limits, vocab, rows, parts, drops,
    PARTS_2: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`keep` of the rows that queue, whose whole vocabulary is looked at. Grid (programs), all of which must run at
    once: the rows share them, and those of a row wait for each other. space: float64 `[rows, 3, parts, EXCHANGED]`, see
    `_pass`."""
    waiting = tl.load(counters + WAITING)
    if waiting > 0:
        programs = tl.maximum(tl.minimum(tl.num_programs(0) // waiting, parts), 1)
        groups = tl.num_programs(0) // programs
        program = tl.program_id(0) % programs
        if tl.program_id(0) // programs < groups:
            for place in range(tl.program_id(0) // programs, waiting, groups):
                row = tl.load(queue + place).to(tl.int64)
                row_counters = counters + row * COUNTERS
                top, inverse, k, p, most, least, lowest, total = _asked(
                    found, log_sums, temperatures, top_k, top_p, min_p, surprisal, drops, row, rows
                )
                # From the table it is known how high the floor is at most; and below the lower bound of it even all
                # tokens together would be too few for top_p to keep any.
                cut, highest = tl.load(cuts + row * 2 + 1).to(tl.int64), key_of(top).to(tl.int64)
                alone = (k != k) & (most != most)
                rest = tl.log((1.0 - p) * total / vocab) - 0.01
                lower = key_of((top + rest / inverse).to(tl.float32) + 0.0).to(tl.int64)
                low = tl.where(alone & (p < 1.0), lower, LOWEST).to(tl.int64)
                high_by_p = tl.where(alone, tl.maximum(cut, low), highest)
                floor, edge, sums = _floor(
                    logits + row * vocab, table, 0, vocab, row_counters, space + row * 3 * parts * EXCHANGED, parts,
                    program, programs, top, inverse, least, lowest, k, p, most, total,
                    low, cut, high_by_p, True, PARTS_2, TILE, BLOCK,
                )  # fmt: skip
                if last_of(row_counters + LEFT, programs):
                    tl.atomic_xchg(row_counters + MET, 0)
                    _leave(
                        figures, bounds, limits, row, rows, floor, edge, sums, False, total,
                        tl.load(entropies + row), least, lowest,
                    )  # fmt: skip
        if last_of(counters + GONE, tl.num_programs(0)):
            tl.atomic_xchg(counters + WAITING, 0)


@triton.jit
def _floor(
    row_logits, row_table, count, vocab, counters, space, parts, program, programs, top, inverse, least, lowest,
    k, p, most, total, low, high_by_k, high_by_p,
    WHOLE: tl.constexpr, PARTS_2: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """(floor, edge, sums of _KEPT) of a row: what top_k and top_p leave has keys from `low` on, and reaches down to a
    key of at most `high_by_k` and `high_by_p`."""
    turn = tl.zeros([], tl.int32)
    edge = tl.zeros([], tl.int64)
    floor, floor_by_k = low, low
    goal = k
    for by_mass in range(2):  # top_k, then top_p: a loop compiles in half the time
        if by_mass != 0:
            mass = total
            if (p < 1.0) & ((k == k) | (most == most)):
                sums, _, _ = _pass(
                    row_logits, row_table, count, vocab, counters, space, parts, program, programs, turn,
                    top, inverse, least, lowest, floor, edge, low, low, low, _AT_HAND, WHOLE, PARTS_2, TILE, BLOCK,
                )  # fmt: skip
                turn += 1
                mass = _pick(sums, 1)
            goal = p * mass
            floor_by_k = floor
        if ((by_mass == 0) & (k == k)) | ((by_mass != 0) & (p < 1.0)):
            floor, turn = _edge(
                row_logits, row_table, count, vocab, counters, space, parts, program, programs, turn,
                top, inverse, least, goal, floor, tl.where(by_mass != 0, high_by_p, high_by_k), floor, by_mass,
                WHOLE, PARTS_2, TILE, BLOCK,
            )  # fmt: skip
    if p < 1.0:
        # Its edge may part equals, of which the higher ids stay.
        sums, _, _ = _pass(
            row_logits, row_table, count, vocab, counters, space, parts, program, programs, turn,
            top, inverse, least, lowest, floor_by_k, edge, floor, floor, floor, _EQUALS, WHOLE, PARTS_2, TILE, BLOCK,
        )  # fmt: skip
        bits = floor.to(tl.int32)
        bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        one = tl.exp((bits.to(tl.float32, bitcast=True) - top) * inverse).to(tl.float64)
        needed = tl.where(one > 0, tl.ceil((goal - _pick(sums, 0)) / tl.where(one > 0, one, 1.0)), 1.0)
        spare = _pick(sums, 1).to(tl.int64) - tl.maximum(needed, 1.0).to(tl.int64)
        if spare > 0:
            edge = _id_of_tie(
                row_logits, row_table, count, vocab, space + (turn % 2) * parts * EXCHANGED, parts, floor, spare,
                WHOLE, PARTS_2, TILE, BLOCK,
            )  # fmt: skip
        turn += 1
    sums, _, _ = _pass(
        row_logits, row_table, count, vocab, counters, space, parts, program, programs, turn,
        top, inverse, least, lowest, floor, edge, low, low, low, _KEPT, WHOLE, PARTS_2, TILE, BLOCK,
    )  # fmt: skip
    return floor, edge, sums


@triton.jit
def _leave(
    figures, bounds, limits, row, rows, floor, edge, sums, takes_best, total, entropy, least, lowest
):  # fmt: skip
    """Store what `keep` has found of a row."""
    mass = tl.where(takes_best, 1.0, _pick(sums, 0))
    tl.store(figures + row, mass / total)
    tl.store(figures + rows + row, tl.where(takes_best, 0.0, tl.log(mass) - _pick(sums, 1) / mass))
    tl.store(figures + 2 * rows + row, tl.where(takes_best, 1.0, _pick(sums, 2)))
    tl.store(figures + 3 * rows + row, 1.0 / mass)
    tl.store(figures + 4 * rows + row, tl.log(total))
    tl.store(figures + 5 * rows + row, entropy)
    tl.store(bounds + row, floor)
    tl.store(bounds + rows + row, edge)
    tl.store(limits + row, least)
    tl.store(limits + rows + row, lowest)
    tl.store(limits + 2 * rows + row, mass)


@triton.jit
def _id_of_tie(
    row_logits, row_table, count, vocab, sums, parts, floor, spare,
    WHOLE: tl.constexpr, PARTS_2: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The id of the token after the first `spare` of those with the key `floor`. sums: of _EQUALS, by part."""
    at = tl.zeros([], tl.int32)
    seen = tl.zeros([], tl.int64)
    if WHOLE:
        part = tl.arange(0, PARTS_2)
        tied = fresh(sums + part * EXCHANGED + 1, part < parts).to(tl.int64)
        running = tl.cumsum(tied, 0)
        here = (running > spare) & (running - tied <= spare)
        at = tl.sum(tl.where(here, part, 0), 0)
        seen = tl.sum(tl.where(here, running - tied, 0), 0)
    ids, z = tile(row_logits, row_table, at, count, vocab, WHOLE, TILE, BLOCK)
    tied = (key_of(z) == floor).to(tl.int32)
    here = (tied != 0) & (seen + tl.cumsum(tied, 0) == spare + 1)
    return tl.sum(tl.where(here, ids, 0), 0).to(tl.int64)
