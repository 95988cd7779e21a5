"""The draw of a token from what filters left, and the report of the step."""

import triton
import triton.language as tl

from adaptive.gpu.kernels.leading import EXCHANGED, kept, scaled, tile
from adaptive.gpu.kernels.survey import (
    BEST,
    COUNTERS,
    DRAWN,
    ENTROPY,
    LARGER,
    MAXIMUM,
    NORMALIZER,
    TOP_PROB,
    VARENTROPY,
    fresh,
    inverse_of,
    last_of,
)


@triton.jit(do_not_specialize=["parts", "fields", "has_saturated", "has_infeasible"])
def draw(
    logits, found, table, temperatures, top_k, top_p, min_p, saturated, infeasible, counters, space, figures, bounds,
    limits, numbers, tokens, larger, packed, vocab, width, parts, fields, has_saturated, has_infeasible,
    PARTS_2: tl.constexpr, TABLE: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A token by inversion over what is left, in the order of ids, how many logits are larger than its own, and all
    that is to be told of the step.

    Grid (rows, programs), which need not run at once. numbers: float64 `[rows]` in [0, 1). tokens, larger: int64
    `[rows]`. packed: float64 `[rows, fields]`, of `adaptive.info.SamplingInfo`, all but its state. The rest as in
    `adaptive.gpu.kernels.leading.keep` and `adaptive.policies.Control`.
    """
    row, rows = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    row_logits, row_table = logits + row * vocab, table + row * width
    count = tl.load(bounds + 2 * rows + row).to(tl.int32)
    top = tl.load(found + MAXIMUM * rows + row).to(tl.float32) + 0.0
    temperature = tl.load(temperatures + row)
    inverse = inverse_of(temperature)
    floor, edge = tl.load(bounds + row), tl.load(bounds + rows + row)
    least, lowest = tl.load(limits + row), tl.load(limits + rows + row)
    goal = tl.load(numbers + row) * tl.load(limits + 2 * rows + row)
    best = tl.load(found + BEST * rows + row).to(tl.int64)
    takes_best = temperature == 0.0
    told = tl.program_id(1) == 0
    token, own, number = best, top, tl.zeros([], tl.int32)
    if count >= 0:
        if told:
            ids, z = tile(row_logits, row_table, 0, count, vocab, False, TABLE, BLOCK)
            token = _drawn(
                ids, z, top, inverse.to(tl.float32), least, lowest, floor, edge, 0.0, goal, best, takes_best, vocab
            )
            own = tl.load(row_logits + token).to(tl.float32)
            number = tl.sum((z > own).to(tl.int32), 0)
    else:
        # The part in which it lies; rounding may lead the goal past the last that has any.
        part = tl.arange(0, PARTS_2)
        sums = fresh(space + (row * 3 + 2) * parts * EXCHANGED + part * EXCHANGED, part < parts)
        running = tl.cumsum(sums, 0)
        last = tl.max(tl.where(sums > 0, part, 0), 0)
        at = tl.min(tl.where((running > goal) & (sums > 0), part, last), 0)
        before = tl.sum(tl.where(part == at, running - sums, 0.0), 0)
        ids_here, z_here = tile(row_logits, row_table, at, count, vocab, True, TILE, BLOCK)
        token = _drawn(
            ids_here, z_here, top, inverse.to(tl.float32), least, lowest, floor, edge, before, goal, best, takes_best,
            vocab,
        )  # fmt: skip
        own = tl.load(row_logits + token).to(tl.float32)
        for one in range(tl.program_id(1), parts, tl.num_programs(1)):
            _, z_there = tile(row_logits, row_table, one, count, vocab, True, TILE, BLOCK)
            number += tl.sum((z_there > own).to(tl.int32), 0)
        beyond = counters + row * COUNTERS + LARGER
        tl.atomic_add(beyond, number)
        told = last_of(counters + row * COUNTERS + DRAWN, tl.num_programs(1))
        if told:
            number = tl.atomic_xchg(beyond, 0)
    if told:
        tl.store(tokens + row, token)
        tl.store(larger + row, number.to(tl.int64))
        _tell(
            found, top_k, top_p, min_p, saturated, infeasible, figures, packed + row * fields, row, rows, token,
            temperature, inverse, own, top, number, has_saturated, has_infeasible,
        )  # fmt: skip


@triton.jit
def _drawn(ids, z, top, inverse, least, lowest, floor, edge, before, goal, best, takes_best, vocab):
    """The token of a tile with which the sum of weights in the order of ids, from `before` on, is above the goal."""
    y, weight, left = scaled(z, top, inverse, least)
    weight = tl.where(kept(ids, z, y, left, floor, lowest, edge), weight, 0.0).to(tl.float64)
    above = (before + tl.cumsum(weight, 0) > goal) & (weight > 0)
    first = tl.min(tl.where(above, ids, vocab), 0).to(tl.int64)
    # Rounding may lead the goal past the last sum.
    last = tl.max(tl.where(weight > 0, ids, -1), 0).to(tl.int64)
    token = tl.where(first < vocab, first, tl.where(last < 0, best, last))
    return tl.minimum(tl.maximum(tl.where(takes_best, best, token), 0), vocab - 1)


@triton.jit
def _tell(
    found, top_k, top_p, min_p, saturated, infeasible, figures, out, row, rows, token, temperature, inverse, own, top,
    number, has_saturated, has_infeasible,
):  # fmt: skip
    """One row of `packed`. As `adaptive.info.pack` has it."""
    absent = tl.zeros([], tl.float64) + float("nan")
    takes_best = temperature == 0.0
    maximum = tl.load(found + MAXIMUM * rows + row)
    finite = tl.abs(maximum) < float("inf")
    fault = tl.where(finite, tl.where(tl.abs(temperature) < float("inf"), 0.0, 2.0), 1.0)
    k, p, low_p = tl.load(top_k + row), tl.load(top_p + row), tl.load(min_p + row)
    kept_mass, log_sum = tl.load(figures + row), tl.load(figures + 4 * rows + row)
    filtered = (own - top).to(tl.float64) * inverse - log_sum - tl.log(kept_mass)
    is_saturated, is_infeasible = absent, absent
    if has_saturated != 0:
        is_saturated = tl.load(saturated + row)
    if has_infeasible != 0:
        is_infeasible = tl.load(infeasible + row)
    tl.store(out, token.to(tl.float64))
    tl.store(out + 1, fault)
    tl.store(out + 2, tl.load(found + ENTROPY * rows + row))
    tl.store(out + 3, tl.where(takes_best, 0.0, tl.load(figures + rows + row)))
    tl.store(out + 4, tl.load(figures + 2 * rows + row))
    tl.store(out + 5, absent)  # the size of the vocabulary, which the host knows
    tl.store(out + 6, tl.where(takes_best, 1.0, tl.load(figures + 3 * rows + row)))
    tl.store(out + 7, temperature)
    tl.store(out + 8, tl.where(k == k, k, 0.0))
    tl.store(out + 9, tl.where(p == p, p, 1.0))
    tl.store(out + 10, tl.where(low_p == low_p, low_p, 0.0))
    tl.store(out + 11, tl.load(found + VARENTROPY * rows + row))
    tl.store(out + 12, tl.where(takes_best, absent, tl.load(figures + 5 * rows + row)))
    tl.store(out + 13, tl.load(found + TOP_PROB * rows + row))
    tl.store(out + 14, tl.where(takes_best, absent, kept_mass))
    tl.store(out + 15, is_saturated)
    tl.store(out + 16, is_infeasible)
    tl.store(out + 17, absent)  # no constraint
    tl.store(out + 18, own.to(tl.float64) - tl.load(found + NORMALIZER * rows + row))
    tl.store(out + 19, tl.where(takes_best, 0.0, filtered))
    tl.store(out + 20, number.to(tl.float64))
