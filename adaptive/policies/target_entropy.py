"""The temperature at which the distribution has a chosen entropy."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from adaptive.entropy import Statistics
from adaptive.moments import tempered
from adaptive.parameters import number
from adaptive.policies.base import (
    Columns,
    Control,
    Policy,
    bounds_conflict,
    highest_temperature,
    lowest_temperature,
)


class _Stage(NamedTuple):
    """How the search computes: entropy is known to `near` nats, and a last step of Newton may leave `rest`."""

    dtype: torch.dtype
    near: float
    rest: float
    rounds: int


_QUICK, _PRECISE = _Stage(torch.float32, 5e-7, 2e-7, 12), _Stage(torch.float64, 1e-9, 1e-8, 28)
"""Newton mostly takes two or three rounds; the worst row that we could find takes 19 of the second."""
_SMALL_VOCABULARY, _HIGH_TARGET, _TINY_SLOPE = 2048, 5.0, 0.05
"""Where float64 costs nothing, where float32 may miss 1e-6 nats, and where that would show in the temperature."""


@dataclass(frozen=True, slots=True)
class TargetEntropy(Policy):
    """The temperature at which the distribution has the target entropy, solved at every step.

    With u = ln T, dH/du is the varentropy of softmax(logits / T), which is never negative: entropy grows with
    temperature, and a bracketed Newton iteration on u finds the one root.
    """

    name: ClassVar[str] = "target_entropy"
    target_entropy: float = number(1.5, "Entropy wanted after temperature, before filters.", unit="nats", minimum=0.0)
    min_temperature: float = lowest_temperature()
    max_temperature: float = highest_temperature()

    def conflicts(self) -> Iterator[tuple[str, str]]:
        return bounds_conflict(self.min_temperature, self.max_temperature)

    @classmethod
    def control(cls, statistics: Statistics, parameters: Columns, state: Columns) -> Control:
        target = parameters["target_entropy"]
        low, high = parameters["min_temperature"].log(), parameters["max_temperature"].log()
        u, saturated = solve(statistics, target, low, high)
        return Control(u.exp(), saturated=saturated, infeasible=_infeasible(statistics, target, saturated))


def _infeasible(statistics: Statistics, target: Tensor, saturated: Tensor) -> Tensor:
    """Where no temperature at all has the target. The ends, neither of which is reached: T -> 0 leaves the ties at the
    top, T -> inf all that is possible."""
    if saturated.device.type == "cpu" and not bool(saturated.any()):
        return saturated
    least = statistics.ties.double().log()
    most = statistics.possible.double().log()
    return saturated & ((target <= least) | (target >= most))


def solve(statistics: Statistics, target: Tensor, bottom: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
    """Find u = ln T in [bottom, top] at which softmax(logits / T) has the target entropy, for every row at once, to
    1e-6 nats.

    target: nats; all `[rows]`. Returns (u, whether the target lies beyond a bound, which is then taken), `[rows]`.
    Rows for which float32 may not do go on in float64 from where it got.
    """
    u = torch.zeros_like(target).clamp(bottom, top)
    done = saturated = torch.zeros_like(u, dtype=torch.bool)
    u, saturated, slope, done = _search(statistics, target, bottom, top, u, saturated, done, _QUICK)
    done = done & (target <= _HIGH_TARGET) & (slope >= _TINY_SLOPE) & (statistics.vocab_size >= _SMALL_VOCABULARY)
    if u.device.type == "cpu" and bool(done.all()):
        return u, saturated
    u, saturated, _, _ = _search(statistics, target, bottom, top, u, saturated, done, _PRECISE)
    return u, saturated


def _search(
    statistics: Statistics,
    target: Tensor,
    bottom: Tensor,
    top: Tensor,
    u: Tensor,
    saturated: Tensor,
    done: Tensor,
    stage: _Stage,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Newton's iteration within a bracket that shrinks, of the rows that are not done; see `solve`.

    Returns (u, saturated, dH/du, done). A step is one of Newton on ln H over u, which is straighter than H.
    """
    low, high = bottom, top
    h, slope = statistics.moments.entropy, statistics.moments.varentropy
    survey = statistics.source.survey
    if survey is not None:
        columns = (u, saturated, h, slope, done)
        return survey.search(statistics.index, (target, bottom, top), columns, stage, stage is _QUICK)
    tried_low, tried_high = torch.zeros_like(done), torch.zeros_like(done)
    unknown = ~done if stage is _PRECISE else u != 0  # T = 1 was measured before anything else
    for _ in range(stage.rounds):
        # A row that is done keeps its u, so that it does not depend on how long its neighbours take. On the CPU it
        # costs nothing more; on a GPU to ask which rows are done would stall the step, so there all are computed.
        if u.device.type != "cpu":
            h, slope = _moments(statistics, u, None, stage.dtype)
        elif len(places := unknown.nonzero()[:, 0]):
            h, slope = _renewed(h, slope, places, _moments(statistics, u[places], places, stage.dtype))
        elif bool(done.all()):
            break
        error = target - h
        cold, hot = u <= bottom, u >= top
        beyond = (hot & (error > stage.near)) | (cold & (error < -stage.near))
        saturated = torch.where(done, saturated, beyond)
        done = done | beyond | (error.abs() <= stage.near) | error.isnan()
        low, high = torch.where(error > 0, u, low), torch.where(error > 0, high, u)
        tried_low, tried_high = tried_low | cold, tried_high | hot
        step = ((target / h).log() * h / slope.clamp_min(1e-300)).nan_to_num(nan=torch.inf)  # h = 0: hotter
        newton = u + step
        # Outside the bracket: a bound that is still untried, or else half of what is left.
        goal = torch.where((newton >= high) & ~tried_high, top, (low + high) / 2)
        goal = torch.where((newton <= low) & ~tried_low, bottom, goal)
        inside = (newton > low) & (newton < high)
        u = torch.where(done, u, torch.where(inside, newton, goal))
        # What a small step of Newton leaves is of the order of error times step, and need not be measured.
        done = done | (inside & (step.abs() < 1e-2) & ((error * step).abs() < stage.rest))
        unknown = ~done
    return u, saturated, slope, done


def _moments(statistics: Statistics, u: Tensor, places: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Entropy and its slope in u where ln T = u, of some places among the rows; None means all."""
    rows = statistics.index if places is None else places if statistics.index is None else statistics.index[places]
    moments = tempered(statistics.source, (-u).exp(), rows, order=2, dtype=dtype)
    return moments.entropy, moments.varentropy


def _renewed(h: Tensor, slope: Tensor, places: Tensor, new: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    if len(places) == len(h):
        return new
    return h.index_copy(0, places, new[0]), slope.index_copy(0, places, new[1])
