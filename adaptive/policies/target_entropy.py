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

_ROUNDS = 40
"""Bisection alone would need 40 rounds for the widest bounds in use; Newton mostly takes four."""


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
        u, reached = solve(statistics, target, low, high)
        return Control(u.exp(), saturated=~reached, infeasible=_infeasible(statistics, target, reached))


def _infeasible(statistics: Statistics, target: Tensor, reached: Tensor) -> Tensor:
    """Where no temperature at all has the target: T -> 0 leaves the ties at the top, T -> inf all that is possible."""
    if target.device.type == "cpu" and bool(reached.all()):
        return ~reached
    least = (statistics.logits == statistics.maximum[:, None]).sum(-1).log()
    most = statistics.possible.log()
    return ~reached & ((target < least) | (target > most))


def solve(statistics: Statistics, target: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Find u = ln T in [low, high] at which softmax(logits / T) has the target entropy, for every row at once.

    target: nats; low, high; all float64 `[rows]`. Returns (u, whether the target was reached rather than a bound).
    Newton on ln H, which is straighter than H, until the entropy is within 3e-4 nats; the step after that needs no
    look at the logits, and leaves an error of about 1e-7.
    """
    bottom, top = low, high
    u = torch.zeros_like(target).clamp(low, high)
    h, slope = statistics.moments.entropy, statistics.moments.varentropy  # T = 1 is where to begin, and known
    done = reached = torch.zeros_like(target, dtype=torch.bool)
    unknown = u != 0
    on_cpu = target.device.type == "cpu"
    for _ in range(_ROUNDS):
        if not on_cpu:  # to ask which rows go on would stall the step
            h, slope = _moments(statistics, u, None)
        elif bool(unknown.any()):
            places = None if bool(unknown.all()) else unknown.nonzero()[:, 0]
            h, slope = _renewed(statistics, u, places, h, slope)
        error = target - h
        step = ((target / h).log() * h / slope.clamp_min(1e-12)).nan_to_num(nan=torch.inf)  # h = 0: hotter
        low, high = torch.where(error > 0, u, low), torch.where(error > 0, high, u)
        hit, narrow = error.abs() < 3e-4, (high - low) < 1e-9
        at_bound = ((u >= top) & (error > 0)) | ((u <= bottom) & (error < 0))
        # A row that is done keeps its u, so that it does not depend on how long its neighbours take.
        reached = torch.where(done, reached, hit | narrow & ~at_bound)
        done = done | hit | at_bound | narrow | error.isnan()
        if on_cpu and bool(done.all()):
            break
        newton = u + step
        # Outside the bracket: first try the bound itself, later halve what is left.
        beyond = torch.where(newton > high, high == top, low == bottom) & (u != top) & (u != bottom)
        outside = (newton >= high) | (newton <= low)
        halved = torch.where(beyond, torch.where(newton > high, top, bottom), (low + high) / 2)
        u = torch.where(done, u, torch.where(outside, halved, newton))
        unknown = ~done
    return torch.where(reached & (slope > 1e-9), torch.clamp(u + step, bottom, top), u), reached


def _moments(statistics: Statistics, u: Tensor, places: Tensor | None) -> tuple[Tensor, Tensor]:
    """Entropy and its slope at ln T = u, of all rows or of some places among them."""
    rows = statistics.index if places is None or statistics.index is None else statistics.index[places]
    rows = places if statistics.index is None else rows
    moments = tempered(statistics.source, (-(u if places is None else u[places])).exp(), rows, order=2)
    return moments.entropy, moments.varentropy


def _renewed(
    statistics: Statistics, u: Tensor, places: Tensor | None, h: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor]:
    new = _moments(statistics, u, places)
    if places is None:
        return new
    return h.index_copy(0, places, new[0]), slope.index_copy(0, places, new[1])
