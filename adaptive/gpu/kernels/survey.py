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
# Of a part of a row: its maximum, the first token with it, and from SUMS on: sums of p, p y, p y y, the number of ties
# (NaN where there is a NaN) and of possible tokens, the two of AHEAD, and nine of the other HEATS.
SUMS, PARTS = tl.constexpr(2), tl.constexpr(18)
# Counters of a row, which are 0 between kernels: who has come, in which kernel; and what they count together.
SURVEYED, SEARCHED, TEMPERED, MET, LEFT, DRAWN, LARGER, COUNTERS = map(tl.constexpr, range(8))
LOWEST = tl.constexpr(-2147483648)
NONE = tl.constexpr(float("-inf"))


@triton.jit
def key_of(z):
    bits = z.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def each(x):
    """Sums of the blocks of a tile `[blocks, BLOCK]`, float64: few numbers are summed as they are."""
    return tl.sum(x, 1).to(tl.float64)


@triton.jit
def eight(a, b, c, d, e, f, g, h):
    """Sums of eight columns `[n]` at once, `[8]`."""
    even, odd = tl.join(tl.join(a, e), tl.join(c, g)), tl.join(tl.join(b, f), tl.join(d, h))
    return tl.reshape(tl.sum(tl.join(even, odd), 0), [8])


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
def _powers(y, p):
    y = tl.where(p > 0, y, 0.0)
    return each(p), each(p * y), each(p * y * y)


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


@triton.jit
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
    block = part * (TILE // BLOCK) + tl.arange(0, TILE // BLOCK)
    ids = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    raw = tl.load(logits + row * vocab + ids, mask=ids < vocab, other=NONE).to(tl.float32)
    # Adding 0 makes one of the two zeros, which are equal but have different bits.
    z = tl.where(raw == raw, raw, NONE) + 0.0
    highest = tl.max(z, 1)
    tl.store(maxima + row * blocks + block, highest, mask=block < blocks)
    top = tl.max(highest, 0)
    y = z - tl.where(top == NONE, 0.0, top)
    at_top = (z == top) & (z > NONE)
    ties = each(tl.where(raw == raw, at_top.to(tl.float32), float("nan")))
    possible = each((z > NONE).to(tl.float32))
    half = tl.exp(0.5 * y)
    p = half * half if LADDER else tl.exp(y)
    total, mean, square = _powers(y, p)
    ahead_total, ahead_mean = tl.zeros_like(total), tl.zeros_like(total)
    if FORESEEN:
        scaled = y * tl.load(ahead + row).to(tl.float32)
        q = tl.exp(scaled)
        ahead_total, ahead_mean = each(q), each(q * tl.where(q == 0.0, 0.0, y))
    out = partial + (row * parts + part) * PARTS
    eighth = tl.arange(0, 8)
    if LADDER:
        warm_0, warm_1, warm_2 = _powers(y, half)
        square_p = p * p
        cool_0, cool_1, cool_2 = _powers(y, square_p)
        cold_0, cold_1, cold_2 = _powers(y, square_p * square_p)
        tl.store(out + SUMS + eighth, eight(total, mean, square, ties, possible, ahead_total, ahead_mean, warm_0))
        tl.store(
            out + SUMS + 8 + eighth, eight(warm_1, warm_2, cool_0, cool_1, cool_2, cold_0, cold_1, cold_2)
        )  # fmt: skip
    else:
        zeros = tl.zeros_like(total)
        tl.store(out + SUMS + eighth, eight(total, mean, square, ties, possible, ahead_total, ahead_mean, zeros))
    tl.store(out, top.to(tl.float64))
    tl.store(out + 1, tl.min(tl.min(tl.where(at_top, ids, vocab - 1), 1), 0).to(tl.float64))
    if last_of(counters + row * COUNTERS + SURVEYED, parts):
        if FORESEEN:
            heat = tl.load(ahead + row)
        else:
            heat = float("nan")
        _statistics(partial, found, values, ids_, heat, row, rows, parts, FORESEEN, LADDER, PARTS_2)
        _leading_blocks(maxima + row * blocks, table + row * keep, cuts + row * 2, blocks, keep, BLOCKS_2)


@triton.jit
def _statistics(
    partial, found, values, ids_, heat, row, rows, parts,
    FORESEEN: tl.constexpr, LADDER: tl.constexpr, PARTS_2: tl.constexpr,
):  # fmt: skip
    """Columns of a row, of those of its parts. heat: 1 / temperature of AHEAD."""
    part = tl.arange(0, PARTS_2)
    at = partial + (row * parts + part) * PARTS
    tops = fresh(at, part < parts, NONE)
    top = tl.max(tops, 0)
    there = tops > NONE
    shift = tl.where(there, tops - tl.where(there, top, 0.0), NONE)
    best = tl.min(tl.where(there & (tops == top), fresh(at + 1, there), float("inf")), 0)
    best = tl.where(best < float("inf"), best, 0.0)
    # A NaN comes from any part that has one.
    ties = fresh(at + SUMS + 3, part < parts)
    top = tl.where(tl.sum(tl.where(ties == ties, 0.0, 1.0), 0) > 0, float("nan"), top)
    log_sum, mean, square = _joined(at + SUMS, there, shift, 1.0)
    tl.store(found + MAXIMUM * rows + row, top)
    tl.store(found + BEST * rows + row, best)
    tl.store(found + TIES * rows + row, tl.sum(tl.where(tops == top, ties, 0.0), 0))
    tl.store(found + POSSIBLE * rows + row, tl.sum(fresh(at + SUMS + 4, there), 0))
    tl.store(found + ENTROPY * rows + row, tl.maximum(log_sum - mean, 0.0))
    tl.store(found + VARENTROPY * rows + row, tl.maximum(square - mean * mean, 0.0))
    tl.store(found + TOP_PROB * rows + row, tl.exp(-log_sum))
    tl.store(found + NORMALIZER * rows + row, top + log_sum)
    tl.store(found + LOG_SUM * rows + row, log_sum)
    tl.store(found + MEAN * rows + row, mean)
    tl.store(found + SQUARE * rows + row, square)
    tl.store(values + row, top.to(tl.float32))
    tl.store(ids_ + row, best.to(tl.int64))
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
    """At most `keep` blocks with the largest maxima, and not many fewer unless they are equal."""
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


@triton.jit
def temper(
    logits, found, temperatures, counters, partial, log_sums, entropies, vocab, parts, known,
    PARTS_2: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
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
        ids = (part * TILE + tl.arange(0, TILE // BLOCK) * BLOCK)[:, None] + tl.arange(0, BLOCK)[None, :]
        z = tl.load(logits + row * vocab + ids, mask=ids < vocab, other=NONE).to(tl.float32)
        top = tl.load(found + MAXIMUM * tl.num_programs(0) + row).to(tl.float32)
        y = (z - top) * inverse_of(tl.load(temperatures + row)).to(tl.float32)
        p = tl.exp(y)
        out = partial + (row * parts + part) * 2
        tl.store(out, tl.sum(each(p), 0))
        tl.store(out + 1, tl.sum(each(p * tl.where(p > 0, y, 0.0)), 0))
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
