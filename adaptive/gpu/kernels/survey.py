"""What is known of rows before anything is decided, and their moments at a temperature.

A row is worked on in parts of `TILE` tokens, each by a program. The one that comes last puts them together, always in
the order of the parts: the result depends neither on who that is nor on the other rows.
"""

import triton
import triton.language as tl

# Columns of what is known of a row. From AHEAD on: the logarithm of the sum of exp(y) and the entropy at a temperature
# that was known before; from HEATS on: entropy and varentropy at T = 1/4, 1/2, 1, 2. NaN if not asked for.
MAXIMUM, BEST, TIES, POSSIBLE, ENTROPY, VARENTROPY, TOP_PROB, NORMALIZER = map(tl.constexpr, range(8))
LOG_SUM, MEAN, SQUARE, AHEAD, HEATS, COLUMNS = map(tl.constexpr, (8, 9, 10, 11, 13, 21))
# Of a part of a row: its maximum, and from SUMS on: sums of p, p y, p y y, the number of ties
# and of possible tokens, the two of AHEAD, and nine of the other HEATS.
SUMS, PARTS = tl.constexpr(1), tl.constexpr(17)
# Counters of a row, which are 0 between kernels: who has come, in which kernel; and what they count together. WAITING
# and GONE are the first row's alone, for all rows.
SURVEYED, SEARCHED, TEMPERED, MET, LEFT, DRAWN, LARGER, WAITING, GONE, COUNTERS = map(tl.constexpr, range(10))
LOWEST = tl.constexpr(-2147483648)
NONE = tl.constexpr(float("-inf"))


@triton.jit
def key_of(z):
    bits = z.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def eight(a, b, c, d, e, f, g, h):
    """Sums of eight columns `[n]` at once, float64 `[8]`. So few numbers are summed as they are: what float32 loses
    is below a millionth."""
    even, odd = tl.join(tl.join(a, e), tl.join(c, g)), tl.join(tl.join(b, f), tl.join(d, h))
    return tl.reshape(tl.sum(tl.join(even, odd), 0), [8]).to(tl.float64)


@triton.jit
def last_of(counter, parts):
    """Whether all other programs have come here before, and what they have stored can be read. The counter is 0
    again."""
    tl.debug_barrier()
    last = tl.atomic_add(counter, 1, sem="acq_rel") == parts - 1
    if last:
        tl.atomic_xchg(counter, 0)
    tl.debug_barrier()
    return last


@triton.jit
def fresh(at, mask, other=0.0):
    """What other programs have stored."""
    return tl.load(at, mask=mask, other=other, cache_modifier=".cg")


@triton.jit
def _joined(at, there, shift, heat):
    """(logarithm of the sum of exp(y), mean, mean square) of y = heat (logit - maximum) of a row.

    at: sums of the parts, relative to their own maxima, of p, p x and p x x with x = y / heat. shift: how far those lie
    below that of the row, -inf for none.
    """
    factor = tl.exp(shift * heat)
    shift = tl.where(there, shift, 0.0)
    total, mean, square = fresh(at, there), fresh(at + 1, there), fresh(at + 2, there)
    square = square + shift * (2.0 * mean + shift * total)
    mean = mean + shift * total
    total, mean, square = tl.sum(total * factor, 0), tl.sum(mean * factor, 0), tl.sum(square * factor, 0)
    return tl.log(total), heat * mean / total, heat * heat * square / total


@triton.jit
def _heat(found, rows, row, place, log_sum, mean, square):
    tl.store(found + (HEATS + 2 * place) * rows + row, tl.maximum(log_sum - mean, 0.0))
    tl.store(found + (HEATS + 2 * place + 1) * rows + row, tl.maximum(square - mean * mean, 0.0))


@triton.jit(do_not_specialize=["parts", "blocks", "keep"])
def survey(
    logits, ahead, counters, partial, maxima, found, values, ids_, table, cuts, vocab, parts, blocks, keep,
    FORESEEN: tl.constexpr, LADDER: tl.constexpr, PARTS_2: tl.constexpr, BLOCKS_2: tl.constexpr,
    TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The statistics of rows, and their blocks with the largest maxima.

    Grid (rows, parts). ahead: with FORESEEN, float64 `[rows]`, 1 / temperature, NaN where it is not known yet. found:
    float64 `[COLUMNS, rows]`. values, ids_: float32 and int64 `[rows]`, the largest logit and the first token with it.
    table: int32 `[rows, keep]`, blocks in the order of ids; cuts: int32 `[rows, 2]`, how many there are, and the key
    from which on all tokens are in them. partial: float64 `[rows, parts, PARTS]`, maxima: float32 `[rows, blocks]`, of
    this kernel alone. LADDER: whether HEATS are asked for.
    """
    row, part, rows = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(0)
    ids = part * TILE + tl.arange(0, TILE)
    # Adding 0 makes one of the two zeros, which are equal but have different bits.
    z = tl.load(logits + row * vocab + ids, mask=ids < vocab, other=NONE).to(tl.float32) + 0.0
    highest = tl.max(tl.reshape(z, [TILE // BLOCK, BLOCK]), 1)
    block = part * (TILE // BLOCK) + tl.arange(0, TILE // BLOCK)
    tl.store(maxima + row * blocks + block, highest, mask=block < blocks)
    top = tl.max(highest, 0)
    y = z - tl.where(top == NONE, 0.0, top)
    ties, possible = (y == 0.0).to(tl.float32), (z > NONE).to(tl.float32)
    half = tl.exp(0.5 * y)
    p = half * half if LADDER else tl.exp(y)
    zeros = tl.zeros_like(y)
    ahead_total, ahead_mean = zeros, zeros
    if FORESEEN:
        ahead_total = tl.exp(y * tl.load(ahead + row).to(tl.float32))
        ahead_mean = ahead_total * tl.where(ahead_total > 0, y, 0.0)
    y = tl.where((half if LADDER else p) > 0, y, 0.0)
    yy = y * y
    out = partial + (row * parts + part) * PARTS
    eighth = tl.arange(0, 8)
    tl.store(out, top.to(tl.float64))
    if LADDER:
        cool = p * p
        cold = cool * cool
        tl.store(out + SUMS + eighth, eight(p, p * y, p * yy, ties, possible, ahead_total, ahead_mean, half))
        tl.store(
            out + SUMS + 8 + eighth,
            eight(half * y, half * yy, cool, cool * y, cool * yy, cold, cold * y, cold * yy),
        )
    else:
        tl.store(out + SUMS + eighth, eight(p, p * y, p * yy, ties, possible, ahead_total, ahead_mean, zeros))
    if last_of(counters + row * COUNTERS + SURVEYED, parts):
        heat = tl.load(ahead + row) if FORESEEN else float("nan")
        _statistics(partial, found, values, heat, row, rows, parts, FORESEEN, LADDER, PARTS_2)
        first = _leading_blocks(maxima + row * blocks, table + row * keep, cuts + row * 2, blocks, keep, BLOCKS_2)
        near = first * BLOCK + tl.arange(0, BLOCK)
        likely = tl.load(logits + row * vocab + near, mask=near < vocab, other=NONE).to(tl.float32)
        best = first * BLOCK + tl.argmax(tl.where(likely == likely, likely, NONE), 0, tie_break_left=True)
        best = tl.minimum(best, vocab - 1)
        tl.store(found + BEST * rows + row, best.to(tl.float64))
        tl.store(ids_ + row, best.to(tl.int64))


@triton.jit
def _statistics(
    partial, found, values, heat, row, rows, parts,
    FORESEEN: tl.constexpr, LADDER: tl.constexpr, PARTS_2: tl.constexpr,
):  # fmt: skip
    """Columns of a row, of those of its parts. heat: 1 / temperature of AHEAD."""
    part = tl.arange(0, PARTS_2)
    at = partial + (row * parts + part) * PARTS
    tops = fresh(at, part < parts, NONE)
    top = tl.max(tops, 0)
    there = tops > NONE
    shift = tl.where(there, tops - tl.where(there, top, 0.0), NONE)
    ties = tl.sum(tl.where(tops == top, fresh(at + SUMS + 3, there), 0.0), 0)
    log_sum, mean, square = _joined(at + SUMS, there, shift, 1.0)
    top = tl.where(log_sum == log_sum, top, float("nan"))  # there is a NaN among the logits
    tl.store(found + MAXIMUM * rows + row, top)
    tl.store(found + TIES * rows + row, ties)
    tl.store(found + POSSIBLE * rows + row, tl.sum(fresh(at + SUMS + 4, there), 0))
    tl.store(found + ENTROPY * rows + row, tl.maximum(log_sum - mean, 0.0))
    tl.store(found + VARENTROPY * rows + row, tl.maximum(square - mean * mean, 0.0))
    tl.store(found + TOP_PROB * rows + row, tl.exp(-log_sum))
    tl.store(found + NORMALIZER * rows + row, top + log_sum)
    tl.store(found + LOG_SUM * rows + row, log_sum)
    tl.store(found + MEAN * rows + row, mean)
    tl.store(found + SQUARE * rows + row, square)
    tl.store(values + row, top.to(tl.float32))
    if FORESEEN:
        factor = tl.where(there, tl.exp(shift * heat), 0.0)
        ahead_total = fresh(at + SUMS + 5, there)
        ahead_mean = fresh(at + SUMS + 6, there) + tl.where(there, shift, 0.0) * ahead_total
        ahead_total = tl.sum(ahead_total * factor, 0)
        tl.store(found + AHEAD * rows + row, tl.log(ahead_total))
        entropy = tl.log(ahead_total) - heat * tl.sum(ahead_mean * factor, 0) / ahead_total
        tl.store(found + (AHEAD + 1) * rows + row, tl.where(entropy < 0.0, 0.0, entropy))
    if LADDER:
        cold, cold_mean, cold_square = _joined(at + SUMS + 13, there, shift, 4.0)
        _heat(found, rows, row, 0, cold, cold_mean, cold_square)
        cool, cool_mean, cool_square = _joined(at + SUMS + 10, there, shift, 2.0)
        _heat(found, rows, row, 1, cool, cool_mean, cool_square)
        _heat(found, rows, row, 2, log_sum, mean, square)
        warm, warm_mean, warm_square = _joined(at + SUMS + 7, there, shift, 0.5)
        _heat(found, rows, row, 3, warm, warm_mean, warm_square)
    else:
        for place in tl.static_range(8):
            tl.store(found + (HEATS + place) * rows + row, float("nan"))


@triton.jit
def _leading_blocks(maxima, table, cut_at, blocks, keep, BLOCKS_2: tl.constexpr):
    """At most `keep` blocks with the largest maxima, and not many fewer unless they are equal. Returns the first block
    of those with the largest."""
    block = tl.arange(0, BLOCKS_2)
    exists = block < blocks
    z = fresh(maxima + block, exists, NONE)
    lowest = tl.min(tl.where(exists & (z > NONE), z, float("inf")), 0)
    high = tl.max(z, 0)
    low = tl.minimum(lowest, high)
    cut, count = tl.where(blocks <= keep, NONE, float("inf")), tl.where(blocks <= keep, blocks, 0)
    tries = tl.where(blocks <= keep, 0, 24)
    while (tries > 0) & (4 * count < 3 * keep):
        tries -= 1
        middle = low + (high - low) * 0.5
        number = tl.sum((exists & (z >= middle)).to(tl.int32), 0)
        fits = number <= keep
        cut, count = tl.where(fits, middle, cut), tl.where(fits, number, count)
        low, high = tl.where(fits, low, middle), tl.where(fits, middle, high)
    chosen = exists & (z >= cut)
    place = tl.cumsum(chosen.to(tl.int32), 0) - 1
    tl.store(table + place, block, mask=chosen)
    tl.store(cut_at, count)
    tl.store(cut_at + 1, tl.where(blocks <= keep, LOWEST, key_of(cut + 0.0)))
    return tl.argmax(z, 0, tie_break_left=True)


@triton.jit(do_not_specialize=["parts", "known"])
def temper(
    logits, found, temperatures, counters, partial, log_sums, entropies, vocab, parts, known,
    PARTS_2: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """The logarithm of the sum of exp(y) and the entropy at a temperature, where y = (logit - maximum) / temperature.

    Grid (rows, parts). temperatures, log_sums, entropies: float64 `[rows]`; with `known` not 0 the latter two hold
    what is known already, and NaN where nothing is. partial: float64 `[rows, parts, 2]`, of this kernel alone.
    """
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    if known != 0:
        here = tl.load(log_sums + row)
        needed = here != here
    else:
        needed = known == 0
    if needed:
        ids = part * TILE + tl.arange(0, TILE)
        z = tl.load(logits + row * vocab + ids, mask=ids < vocab, other=NONE).to(tl.float32)
        top = tl.load(found + MAXIMUM * tl.num_programs(0) + row).to(tl.float32)
        y = (z - top) * inverse_of(tl.load(temperatures + row)).to(tl.float32)
        p = tl.exp(y)
        out = partial + (row * parts + part) * 2
        tl.store(out, tl.sum(p, 0).to(tl.float64))
        tl.store(out + 1, tl.sum(p * tl.where(p > 0, y, 0.0), 0).to(tl.float64))
        if last_of(counters + row * COUNTERS + TEMPERED, parts):
            all_parts = tl.arange(0, PARTS_2)
            at = partial + (row * parts + all_parts) * 2
            total = tl.sum(fresh(at, all_parts < parts), 0)
            mean = tl.sum(fresh(at + 1, all_parts < parts), 0) / total
            tl.store(log_sums + row, tl.log(total))
            tl.store(entropies + row, tl.maximum(tl.log(total) - mean, 0.0))


@triton.jit
def inverse_of(temperature):
    """1 / temperature as `adaptive.pool.Setting` has it."""
    return tl.where(temperature == 0.0, 1.0, tl.minimum(1.0 / temperature, 1e12))
