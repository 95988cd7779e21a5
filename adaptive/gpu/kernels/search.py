"""The temperature at which a row has a given entropy: `adaptive.search` in few visits to the row."""

import triton
import triton.language as tl

from adaptive.gpu.kernels.survey import (
    COUNTERS,
    HEATS,
    MAXIMUM,
    NONE,
    POSSIBLE,
    SEARCHED,
    TIES,
    fresh,
    last_of,
)

# What a visit leaves to the next: where it goes on, and the bracket.
U, LOW, HIGH, TRIED_LOW, TRIED_HIGH, PRECISE, DONE, STATE = map(tl.constexpr, range(8))
_SMALL_VOCABULARY, _HIGH_TARGET, _TINY_SLOPE, _STEEP_SLOPE = map(tl.constexpr, (2048, 5.0, 0.05, 16.0))
_SURELY_BEYOND = tl.constexpr(1e-5)
_LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _moments(row_logits, part, vocab, top, inverse, TYPE: tl.constexpr, TILE: tl.constexpr):
    """Sums of p, p y, p y y and p y y y, `[4]`, of a part of a row, where p = exp(y), y = (logit - maximum) inverse."""
    ids = part * TILE + tl.arange(0, TILE)
    z = tl.load(row_logits + ids, mask=ids < vocab, other=NONE).to(TYPE)
    y = (z - top.to(TYPE)) * inverse.to(TYPE)
    p = tl.exp(y)
    y = tl.where(p > 0, y, 0.0)
    py = p * y
    pyy = py * y
    # As a thread has them, four by four, in float32, and of threads in float64.
    fours: tl.constexpr = max(TILE // 1024, 1)
    sums = tl.join(tl.join(p, pyy), tl.join(py, pyy * y))
    sums = tl.sum(tl.sum(tl.reshape(sums, [fours, TILE // 4 // fours, 4, 2, 2]), 2), 0).to(tl.float64)
    return tl.reshape(tl.sum(sums, 0), [4])


@triton.jit
def _measured(row_logits, part, vocab, top, inverse, precise, TILE: tl.constexpr):
    """`_moments` in float32, or in float64 a few tokens at a time."""
    if precise != 0:
        sums = tl.zeros([4], tl.float64)
        for first in range(4):
            sums += _moments(row_logits, part * 4 + first, vocab, top, inverse, tl.float64, TILE // 4)
    else:
        sums = _moments(row_logits, part, vocab, top, inverse, tl.float32, TILE)
    return sums


@triton.jit
def _forecast(found, row, rows, target, bottom, ceiling):
    """About the u = ln T that is looked for: ln H is taken for the cubic between two of the temperatures where it and
    its slope are known, and for a line beyond all of them."""
    at = found + HEATS * rows + row
    goal = tl.log(target)
    # From the coldest on: the last two whose entropies enclose the target, or the two at that end.
    u = tl.zeros([], tl.float64) - 2.0 * _LN_2
    h, slope = tl.load(at), tl.load(at + rows)
    next_h, next_slope = tl.load(at + 2 * rows), tl.load(at + 3 * rows)
    for place in tl.static_range(1, 3):
        above = target > next_h
        u = tl.where(above, (place - 2) * _LN_2, u)
        h, slope = tl.where(above, next_h, h), tl.where(above, next_slope, slope)
        further_h = tl.load(at + 2 * (place + 1) * rows)
        further_slope = tl.load(at + (2 * (place + 1) + 1) * rows)
        next_h, next_slope = tl.where(above, further_h, next_h), tl.where(above, further_slope, next_slope)
    # In float32: this is a guess.
    here, there = tl.log(h).to(tl.float32), tl.log(next_h).to(tl.float32)
    rise, next_rise = (slope / h * _LN_2).to(tl.float32), (next_slope / next_h * _LN_2).to(tl.float32)
    a, b = rise + next_rise - 2.0 * (there - here), 3.0 * (there - here) - 2.0 * rise - next_rise
    wanted = goal.to(tl.float32)
    left, width = tl.zeros([], tl.float32), tl.zeros([], tl.float32) + 1.0
    for _ in range(20):
        width *= 0.5
        middle = left + width
        left = tl.where(here + middle * (rise + middle * (b + middle * a)) < wanted, middle, left)
    inside = u + left.to(tl.float64) * _LN_2
    colder = u + (goal - tl.log(h)) * h / tl.maximum(slope, 1e-300)
    hotter = u + _LN_2 + (goal - tl.log(next_h)) * next_h / tl.maximum(next_slope, 1e-300)
    guess = tl.where(target < h, colder, tl.where(target > next_h, hotter, inside))
    guess = tl.where(guess == guess, guess, 0.0)
    return tl.minimum(tl.maximum(guess, bottom), ceiling)


@triton.jit(do_not_specialize=["parts", "rows", "turn", "rounds"])
def visit(
    logits, found, index, targets, coldest, hottest, counters, partial, states, temperatures, saturated, infeasible,
    log_sums, entropies, vocab, parts, rows, turn, rounds,
    CHOSEN: tl.constexpr, PARTS_2: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Measure rows at the temperature where the one before left off, and take a step of Halley's on ln H over u = ln T,
    as `adaptive.search` does; who has arrived is not visited again.

    Grid (members, parts). index: int64, the row of each, with CHOSEN. targets: nats; coldest, hottest:
    temperatures; float64 `[members]`. turn: 0 for the first visit. rounds: how many more the program that comes last
    makes alone, if need be. states: float64 `[STATE, members]`. temperatures, saturated, infeasible, log_sums,
    entropies: float64 `[members]`, of `adaptive.policies.Control`. partial: float64 `[members, parts, 4]`, of this
    kernel alone.
    """
    member, part, members = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(0)
    row = member
    if CHOSEN:
        row = tl.load(index + member)
    row_logits, state = logits + row * vocab, states + member
    target = tl.load(targets + member)
    bottom, ceiling = tl.log(tl.load(coldest + member)), tl.log(tl.load(hottest + member))
    if turn == 0:
        u = _forecast(found, row, rows, target, bottom, ceiling)
        precise = tl.where(vocab < _SMALL_VOCABULARY, 1.0, 0.0).to(tl.float64)
        done = tl.zeros([], tl.float64)
    else:
        u = tl.load(state + U * members)
        precise, done = tl.load(state + PRECISE * members), tl.load(state + DONE * members)
    if done == 0.0:
        top = tl.load(found + MAXIMUM * rows + row)
        fourth = tl.arange(0, 4)
        sums = _measured(row_logits, part, vocab, top, tl.exp(-u), precise, TILE)
        tl.store(partial + (member * parts + part) * 4 + fourth, sums)
        if last_of(counters + member * COUNTERS + SEARCHED, parts):
            every = tl.arange(0, PARTS_2)
            at = partial + (member * parts + every)[:, None] * 4 + fourth[None, :]
            sums = tl.sum(fresh(at, (every < parts)[:, None]), 0)
            if turn == 0:
                low, high = bottom, ceiling
                tried_low, tried_high = tl.zeros([], tl.float64), tl.zeros([], tl.float64)
            else:
                low, high = tl.load(state + LOW * members), tl.load(state + HIGH * members)
                tried_low, tried_high = tl.load(state + TRIED_LOW * members), tl.load(state + TRIED_HIGH * members)
            left = rounds + 1
            while left > 0:
                left -= 1
                # What was measured, at a temperature that float32 rounds for all tokens alike.
                total, mean, square = _pick(sums, 0), _pick(sums, 1), _pick(sums, 2)
                mean, square, cube = mean / total, square / total, _pick(sums, 3) / total
                inverse = tl.exp(-u)
                off = tl.where(precise != 0.0, 0.0, inverse / inverse.to(tl.float32).to(tl.float64) - 1.0)
                slope = square - mean * mean
                slope = tl.where(slope < 0.0, 0.0, slope)
                third = cube - mean * (3.0 * square - 2.0 * mean * mean)
                bend = -2.0 * slope - third
                log_sum = tl.log(total) + off * mean
                h = tl.log(total) - mean - off * slope
                h = tl.where(h < 0.0, 0.0, h)
                near, rest = tl.where(precise != 0.0, 1e-9, 1e-7), tl.where(precise != 0.0, 1e-9, 1e-7)
                error = target - h
                cold, hot = u <= bottom, u >= ceiling
                beyond = (hot & (error > near)) | (cold & (error < -near))
                there = beyond | (tl.abs(error) <= near) | (error != error)
                low, high = tl.where(error > 0, u, low), tl.where(error > 0, high, u)
                tried_low, tried_high = tl.where(cold, 1.0, tried_low), tl.where(hot, 1.0, tried_high)
                # h = 0 gives no step, and a target of 0 none downwards: both leave the bracket.
                flat = h <= 0.0
                safe, steep = tl.where(flat, 1.0, h), tl.maximum(slope, 1e-300)
                newton = tl.log(target / safe) * safe / steep
                straight = 1.0 + newton / 2.0 * (bend / steep - slope / safe)
                straight = tl.where(straight == straight, tl.minimum(tl.maximum(straight, 0.5), 2.0), 1.0)
                step = tl.where(flat, float("inf"), newton / straight)
                goal = u + step
                inside = (goal > low) & (goal < high)
                small = inside & (tl.abs(step) < 1e-2) & (tl.abs(error * step * step) < rest)
                # Outside the bracket: a bound that is still untried, or else half of what is left.
                middle = (low + high) / 2
                middle = tl.where((goal >= high) & (tried_high == 0.0), ceiling, middle)
                middle = tl.where((goal <= low) & (tried_low == 0.0), bottom, middle)
                new = tl.where(there, u, tl.where(inside, goal, middle))
                moved = new - u
                u = new
                # What was measured a step before u is carried on to it; where u itself was measured the step is 0.
                change = tl.exp(-moved) - 1.0
                log_sum += change * (log_sum - h + change / 2.0 * (slope + change / 3.0 * (-bend - 2.0 * slope)))
                h += moved * (slope + moved / 2.0 * bend)
                finished = there | small
                # Rows for which float32 may not do go on in float64.
                trusted = (target <= _HIGH_TARGET) & (slope >= _TINY_SLOPE) & (slope <= _STEEP_SLOPE)
                trusted = trusted | (beyond & (tl.abs(error) > _SURELY_BEYOND)) | (error != error)
                again = finished & (precise == 0.0) & (trusted == 0)
                low, high = tl.where(again, bottom, low), tl.where(again, ceiling, high)
                tried_low, tried_high = tl.where(again, 0.0, tried_low), tl.where(again, 0.0, tried_high)
                precise = tl.where(again, 1.0, precise)
                done = (finished & (again == 0)).to(tl.float64)
                tl.store(temperatures + member, tl.exp(u))
                # The ends, neither of which is reached: T -> 0 leaves the ties at the top, T -> inf all that is
                # possible.
                least = tl.log(tl.load(found + TIES * rows + row))
                most = tl.log(tl.load(found + POSSIBLE * rows + row))
                tl.store(saturated + member, beyond.to(tl.float64))
                tl.store(infeasible + member, (beyond & ((target <= least) | (target >= most))).to(tl.float64))
                tl.store(log_sums + member, log_sum)
                tl.store(entropies + member, tl.where(h < 0.0, 0.0, h))
                left = tl.where(done != 0.0, 0, left)
                if left > 0:
                    sums = tl.zeros([4], tl.float64)
                    for one in range(parts):
                        sums += _measured(row_logits, one, vocab, top, tl.exp(-u), precise, TILE)
            tl.store(state + U * members, u)
            tl.store(state + LOW * members, low)
            tl.store(state + HIGH * members, high)
            tl.store(state + TRIED_LOW * members, tried_low)
            tl.store(state + TRIED_HIGH * members, tried_high)
            tl.store(state + PRECISE * members, precise)
            tl.store(state + DONE * members, done)


@triton.jit
def _pick(sums, place):
    """One of `[4]`."""
    return tl.sum(tl.where(tl.arange(0, 4) == place, sums, 0.0), 0)
