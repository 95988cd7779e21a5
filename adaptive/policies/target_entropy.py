"""The temperature at which the distribution has a chosen entropy."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

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

_STAGES = ((torch.float32, 1e-4, 8), (torch.float64, 1e-9, 28))
"""Type, tolerance in nats and rounds. Float32 cannot tell the entropy of a large vocabulary much better. Newton mostly
takes three rounds and one; the worst row that we could find takes 19 of the second."""


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
    least = (statistics.logits == statistics.maximum[:, None]).sum(-1).double().log()
    most = statistics.possible.double().log()
    return saturated & ((target <= least) | (target >= most))


def solve(statistics: Statistics, target: Tensor, bottom: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
    """Find u = ln T in [bottom, top] at which softmax(logits / T) has the target entropy, for every row at once, to
    1e-6 nats.

    target: nats; all `[rows]`. Returns (u, whether the target lies beyond a bound, which is then taken), `[rows]`.
    Float32 gets near; float64 starts anew from there, for where varentropy is tiny a small error in entropy is a large
    one in u.
    """
    u = torch.zeros_like(target).clamp(bottom, top)
    for stage in _STAGES:
        u, saturated = _search(statistics, target, bottom, top, u, *stage)
    return u, saturated


def _search(
    statistics: Statistics,
    target: Tensor,
    bottom: Tensor,
    top: Tensor,
    u: Tensor,
    dtype: torch.dtype,
    near: float,
    most: int,
) -> tuple[Tensor, Tensor]:
    """Newton's iteration on u within a bracket that shrinks, from a first u, in at most `most` rounds; see `solve`."""
    low, high = bottom, top
    h, slope = statistics.moments.entropy, statistics.moments.varentropy
    done, saturated, tried_low, tried_high = (torch.zeros_like(u, dtype=torch.bool) for _ in range(4))
    known = u == 0 if dtype == torch.float32 else done  # T = 1 was measured before anything else
    for _ in range(most):
        # A row that is done keeps its u, so that it does not depend on how long its neighbours take. On the CPU it
        # costs nothing more; on a GPU to ask which rows are done would stall the step, so there all are computed.
        if u.device.type != "cpu":
            h, slope = _moments(statistics, u, None, dtype)
        else:
            places = (~(done | known)).nonzero()[:, 0]
            if len(places):
                h, slope = _renewed(h, slope, places, _moments(statistics, u[places], places, dtype))
            elif bool(done.all()):
                break
        known = torch.zeros_like(done)
        error = target - h
        beyond = ((u >= top) & (error > near)) | ((u <= bottom) & (error < -near))
        saturated = torch.where(done, saturated, beyond)
        done = done | beyond | (error.abs() <= near) | error.isnan()
        low, high = torch.where(error > 0, u, low), torch.where(error > 0, high, u)
        tried_low, tried_high = tried_low | (u <= bottom), tried_high | (u >= top)
        step = error / slope.clamp_min(1e-300)
        newton = u + step
        # Outside the bracket: a bound that is still untried, or else half of what is left.
        goal = torch.where((newton >= high) & ~tried_high, top, (low + high) / 2)
        goal = torch.where((newton <= low) & ~tried_low, bottom, goal)
        inside = (newton > low) & (newton < high)
        u = torch.where(done, u, torch.where(inside, newton, goal))
        # What a small step of Newton leaves is of the order of error times step, and need not be measured.
        done = done | (inside & (step.abs() < 1e-2) & ((error * step).abs() < 10 * near))
    return u, saturated


def _moments(
    statistics: Statistics, u: Tensor, places: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Entropy and its slope in u where ln T = u, of some places among the rows; None means all."""
    rows = statistics.index if places is None else places if statistics.index is None else statistics.index[places]
    moments = tempered(statistics.source, (-u).exp(), rows, order=2, dtype=dtype)
    return moments.entropy, moments.varentropy


def _renewed(h: Tensor, slope: Tensor, places: Tensor, new: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    if len(places) == len(h):
        return new
    return h.index_copy(0, places, new[0]), slope.index_copy(0, places, new[1])
