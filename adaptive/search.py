"""The temperature at which a distribution has a given entropy, in few visits to its row."""

from typing import NamedTuple

import torch
from torch import Tensor

from adaptive.entropy import LOWEST_LOG_PROBABILITY, Statistics
from adaptive.moments import tempered


class _Stage(NamedTuple):
    """How the search computes: entropy is known to `near` nats, and the last step may leave an error of some `rest`."""

    dtype: torch.dtype
    near: float
    rest: float
    rounds: int


_QUICK, _PRECISE = _Stage(torch.float32, 1e-7, 1e-7, 12), _Stage(torch.float64, 1e-9, 1e-9, 28)
"""One round is mostly enough."""
_SMALL_VOCABULARY, _HIGH_TARGET, _TINY_SLOPE, _STEEP_SLOPE = 2048, 5.0, 0.05, 16.0
"""Where float64 costs nothing, where float32 may miss 1e-6 nats, where that would show in the temperature, and where
the rounding of the logits, were it the same for many, would miss as much."""
_GRID = torch.linspace(0.0, 1.0, 32, dtype=torch.float64)
"""Between the bounds of u: where entropy is forecast."""


class Found(NamedTuple):
    """What was found, `[rows]`. u: ln T. saturated: whether the target lies beyond a bound, which is then taken.
    log_sum, entropy, slope: of softmax(logits / T), as in `Moments`; slope is dH/du, its varentropy."""

    u: Tensor
    saturated: Tensor
    log_sum: Tensor
    entropy: Tensor
    slope: Tensor


def solve(statistics: Statistics, target: Tensor, bottom: Tensor, top: Tensor) -> Found:
    """Find u = ln T in [bottom, top] at which softmax(logits / T) has the target entropy, for every row at once, to
    1e-6 nats.

    target: nats; all `[rows]`. Entropy grows with temperature, so there is one root. Rows for which float32 may not do
    go on in float64 from where it got.
    """
    absent = torch.full_like(target, torch.nan)
    done = torch.zeros_like(target, dtype=torch.bool)
    found = Found(_forecast(statistics, target, bottom, top), done, absent, absent, absent)
    for stage in (_QUICK, _PRECISE):
        if stage is _QUICK and statistics.vocab_size < _SMALL_VOCABULARY:
            continue
        found, done = _search(statistics, (target, bottom, top), found, done, stage)
        done = done & (target <= _HIGH_TARGET) & (found.slope >= _TINY_SLOPE) & (found.slope <= _STEEP_SLOPE)
        if target.device.type == "cpu" and bool(done.all()):
            break
    return found


def _search(
    statistics: Statistics, wish: tuple[Tensor, Tensor, Tensor], found: Found, done: Tensor, stage: _Stage
) -> tuple[Found, Tensor]:
    """Halley's iteration within a bracket that shrinks, of the rows that are not done; see `solve`.

    It looks for the root of ln H over u, which is straighter than H.
    """
    target, bottom, top = wish
    u, saturated = found.u, found.saturated
    known = torch.stack([*found[2:], torch.zeros_like(u)])  # log_sum, entropy, its slope and the slope of that
    step = torch.zeros_like(u)
    low, high = bottom, top
    tried_low = tried_high = torch.zeros_like(done)
    on_cpu = u.device.type == "cpu"
    for _ in range(stage.rounds):
        # A row that is done keeps its u, so that it does not depend on how long its neighbours take. On a GPU to ask
        # which rows are done would stall the step, so there all are computed.
        places = None
        if on_cpu and bool(done.any()):
            places = (~done).nonzero()[:, 0]
            if not len(places):
                break
        known = _measured(statistics, u, places, known, done, stage.dtype)
        _, h, slope, bend = known.unbind()
        error = target - h
        cold, hot = u <= bottom, u >= top
        beyond = (hot & (error > stage.near)) | (cold & (error < -stage.near))
        saturated = torch.where(done, saturated, beyond)
        there = beyond | (error.abs() <= stage.near) | error.isnan()
        low, high = torch.where(error > 0, u, low), torch.where(error > 0, high, u)
        tried_low, tried_high = tried_low | cold, tried_high | hot
        slope = slope.clamp_min(1e-300)
        newton = (target / h).log() * h / slope
        halley = newton / (newton / 2.0 * (bend / slope - slope / h)).add_(1.0).clamp_(0.5, 2.0)
        halley = halley.nan_to_num_(nan=torch.inf)  # h = 0: hotter
        goal = u + halley
        inside = (goal > low) & (goal < high)
        # What a small step of Halley's leaves is of the order of error times its square, and need not be measured.
        small = inside & (halley.abs() < 1e-2) & ((error * halley * halley).abs() < stage.rest)
        if not on_cpu or not bool((inside | there).all()):
            # Outside the bracket: a bound that is still untried, or else half of what is left.
            middle = (low + high) / 2
            middle = torch.where((goal >= high) & ~tried_high, top, middle)
            middle = torch.where((goal <= low) & ~tried_low, bottom, middle)
            goal = torch.where(inside, goal, middle)
        new = torch.where(done | there, u, goal)
        step = torch.where(done, step, new - u)
        u, done = new, done | there | small
    # What was measured a step before u is carried on to it; where u itself was measured the step is 0.
    log_sum, h, slope, bend = known.unbind()
    change = (-step).exp() - 1.0
    third = -bend - 2.0 * slope
    log_sum = log_sum + change * (log_sum - h + change / 2.0 * (slope + change / 3.0 * third))
    return Found(u, saturated, log_sum, h + step * (slope + step / 2.0 * bend), slope), done


def _measured(
    statistics: Statistics, u: Tensor, places: Tensor | None, known: Tensor, done: Tensor, dtype: torch.dtype
) -> Tensor:
    """`known` with what is true at ln T = u of some places among the rows; None means all that are not done."""
    index = statistics.index
    rows = index if places is None else places if index is None else index[places]
    inverse = (-(u if places is None else u[places])).exp()
    moments = tempered(statistics.source, inverse, rows, order=3, dtype=dtype)
    log_sum, h, slope = moments.log_sum, moments.entropy, moments.varentropy
    if dtype != inverse.dtype:  # the temperature was rounded, which all tokens have in common
        off = inverse / inverse.to(dtype) - 1.0
        log_sum, h = log_sum + off * moments.mean, h - off * slope
    new = torch.stack([log_sum, h, slope, -2.0 * slope - moments.third])
    if places is None:
        return torch.where(done, known, new)
    return known.index_copy(1, places, new)


def _forecast(statistics: Statistics, target: Tensor, bottom: Tensor, top: Tensor) -> Tensor:
    """About the u that is looked for, from what is known at T = 1.

    The most likely tokens are taken as they are. How far the others lie below the last of these is taken to follow a
    gamma distribution, whose mass, mean and variance at T = 1 are what those leave.
    """
    best, moments = statistics.best, statistics.moments
    if best.shape[-1] == 1:  # on a GPU without kernels
        return torch.zeros_like(target).clamp(bottom, top)
    y = (best - best[:, :1]).clamp_min_(LOWEST_LOG_PROBABILITY)
    last = y[:, -1:]
    log_sum, mean, square = torch.stack(moments[:3]).to(y.dtype)[..., None].unbind()
    depth = last - y
    p = (y - log_sum).exp_()
    likely, sum_1, sum_2 = torch.stack([p, p * depth, p * depth.square()]).sum(-1, keepdim=True)
    rest = (1.0 - likely).clamp_min_(1e-7)
    mean_depth = ((last - mean - sum_1) / rest).clamp_min_(1e-3)
    square_depth = (square - last * (2.0 * mean - last) - sum_2) / rest
    rate = mean_depth / (square_depth - mean_depth.square()).clamp_min_(1e-3)
    u = bottom[:, None] + (top - bottom)[:, None] * _GRID
    inverse = (-u).exp_().to(y.dtype)
    weights = (inverse[..., None] * y[:, None]).exp_()
    faster = ((inverse - 1.0 + rate) / rate).clamp_min_(0.05)
    mass = (rest.log() + log_sum + (inverse - 1.0) * last - mean_depth * rate * faster.log()).exp_()
    total = weights.sum(-1).add_(mass)
    inner = weights.mul_(y[:, None]).sum(-1).add_(mass * (last - mean_depth / faster))
    h = total.log() - inverse * inner / total
    place = (h < target[:, None]).sum(-1, keepdim=True)
    there = torch.cat([place - 1, place], -1).clamp_(0, len(_GRID) - 1)
    (u0, u1), (h0, h1) = u.gather(-1, there).unbind(-1), h.gather(-1, there).log_().unbind(-1)
    u = u0 + (u1 - u0) * ((target.log() - h0) / (h1 - h0)).nan_to_num_(0.0, 0.0, 0.0)
    return torch.minimum(torch.maximum(u.nan_to_num_(0.0), bottom), top)
