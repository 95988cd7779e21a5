"""What is known of rows before anything is decided, and their moments at a temperature."""

import triton
import triton.language as tl

# Columns of what is known of a part of a row, and of a row.
MAXIMUM, BEST, TOTAL, MEAN, SQUARE, TIES, POSSIBLE, BROKEN = map(tl.constexpr, range(8))
PARTS = tl.constexpr(8)
LOWEST = tl.constexpr(-2147483648)
NONE = tl.constexpr(float("-inf"))


@triton.jit
def key_of(z):
    bits = z.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def sum_of(x):
    """The sum of a tile `[blocks, BLOCK]`."""
    return tl.sum(tl.sum(x, 1), 0)


@triton.jit
def survey(logits, partial, maxima, vocab, parts, blocks, TILE: tl.constexpr, BLOCK: tl.constexpr):
    """Of a part of a row `[TILE]`: its moments relative to its own maximum, and the maximum of each of its blocks.

    Grid (rows, parts). partial: float64 `[rows, parts, 8]`. maxima: float32 `[rows, blocks]`.
    """
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    block = part * (TILE // BLOCK) + tl.arange(0, TILE // BLOCK)
    ids = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = ids < vocab
    z = tl.load(logits + row * vocab + ids, mask=inside, other=NONE).to(tl.float32)
    broken = sum_of(((z != z) & inside).to(tl.int32))
    # Adding 0 makes one of the two zeros, which are equal but have different bits.
    z = tl.where(z == z, z, NONE) + 0.0
    highest = tl.max(z, 1)
    tl.store(maxima + row * blocks + block, highest, mask=block < blocks)
    top = tl.max(highest, 0)
    y = z - tl.where(top == NONE, 0.0, top)
    possible = z > NONE
    p = tl.where(possible, tl.exp(y), 0.0).to(tl.float64)
    y = tl.where(possible, y, 0.0).to(tl.float64)
    at_top = possible & (z == top)
    out = partial + (row * parts + part) * PARTS
    tl.store(out + MAXIMUM, top.to(tl.float64))
    tl.store(out + BEST, tl.min(tl.min(tl.where(at_top, ids, vocab - 1), 1), 0).to(tl.float64))
    tl.store(out + TOTAL, sum_of(p))
    tl.store(out + MEAN, sum_of(p * y))
    tl.store(out + SQUARE, sum_of(p * y * y))
    tl.store(out + TIES, sum_of(at_top.to(tl.int32)).to(tl.float64))
    tl.store(out + POSSIBLE, sum_of(possible.to(tl.int32)).to(tl.float64))
    tl.store(out + BROKEN, broken.to(tl.float64))


@triton.jit
def rank(
    partial, maxima, found, table, cuts, parts, blocks, keep, PARTS_2: tl.constexpr, BLOCKS_2: tl.constexpr
):  # fmt: skip
    """The parts of a row together, and the `keep` blocks with the largest maxima, in the order of ids.

    Grid (rows). found: float64 `[8, rows]`. table: int32 `[rows, keep]`, blocks; cuts: int32 `[rows, 2]`, how many
    there are, and the key from which on all tokens are in them.
    """
    row, rows = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    part = tl.arange(0, PARTS_2)
    there = part < parts
    at = partial + (row * parts + part) * PARTS
    tops = tl.load(at + MAXIMUM, mask=there, other=NONE)
    top = tl.max(tops, 0)
    shift = tl.where(tops == NONE, 0.0, tops - tl.where(top == NONE, 0.0, top))
    factor = tl.where(tops == NONE, 0.0, tl.exp(shift))
    total = tl.load(at + TOTAL, mask=there, other=0.0)
    mean = tl.load(at + MEAN, mask=there, other=0.0)
    square = tl.load(at + SQUARE, mask=there, other=0.0)
    square = square + shift * (2.0 * mean + shift * total)
    mean = mean + shift * total
    first = tl.where(there & (tops == top), tl.load(at + BEST, mask=there, other=0.0), float("inf"))
    ties = tl.where(tops == top, tl.load(at + TIES, mask=there, other=0.0), 0.0)
    possible = tl.load(at + POSSIBLE, mask=there, other=0.0)
    broken = tl.sum(tl.load(at + BROKEN, mask=there, other=0.0), 0)
    tl.store(found + MAXIMUM * rows + row, tl.where(broken > 0, float("nan"), top))
    tl.store(found + BEST * rows + row, tl.min(first, 0))
    tl.store(found + TOTAL * rows + row, tl.sum(total * factor, 0))
    tl.store(found + MEAN * rows + row, tl.sum(mean * factor, 0))
    tl.store(found + SQUARE * rows + row, tl.sum(square * factor, 0))
    tl.store(found + TIES * rows + row, tl.sum(ties, 0))
    tl.store(found + POSSIBLE * rows + row, tl.sum(possible, 0))
    tl.store(found + BROKEN * rows + row, broken)

    block = tl.arange(0, BLOCKS_2)
    exists = block < blocks
    keys = key_of(tl.load(maxima + row * blocks + block, mask=exists, other=NONE)).to(tl.int64)
    low, high = tl.zeros([], tl.int64) + LOWEST, tl.zeros([], tl.int64) + 2147483647
    for _ in range(33):  # the lowest key that no more than `keep` blocks reach
        middle = low + ((high - low) >> 1)
        fits = tl.sum((exists & (keys >= middle)).to(tl.int32), 0) <= keep
        low, high = tl.where(fits, low, middle + 1), tl.where(fits, middle, high)
        low = tl.minimum(low, high)
    chosen = exists & (keys >= low)
    place = tl.cumsum(chosen.to(tl.int32), 0) - 1
    tl.store(table + row * keep + place, block, mask=chosen)
    tl.store(cuts + row * 2, tl.sum(chosen.to(tl.int32), 0))
    tl.store(cuts + row * 2 + 1, low.to(tl.int32))


@triton.jit
def temper(logits, found, inverse, partial, vocab, parts, TILE: tl.constexpr):
    """Of a part of a row: the sums of exp(y) and of y exp(y), where y = (logit - maximum) / temperature.

    Grid (rows, parts). partial: float64 `[rows, parts, 2]`.
    """
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    ids = part * TILE + tl.arange(0, TILE)
    z = tl.load(logits + row * vocab + ids, mask=ids < vocab, other=NONE).to(tl.float32)
    top = tl.load(found + MAXIMUM * tl.num_programs(0) + row).to(tl.float32)
    y = (z - top) * tl.load(inverse + row).to(tl.float32)
    p = tl.exp(y)
    y = tl.where(p > 0, y, 0.0).to(tl.float64)
    p = p.to(tl.float64)
    tl.store(partial + (row * parts + part) * 2, tl.sum(p, 0))
    tl.store(partial + (row * parts + part) * 2 + 1, tl.sum(p * y, 0))
