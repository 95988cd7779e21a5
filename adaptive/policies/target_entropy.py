"""The temperature at which the distribution has a chosen entropy."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from adaptive.entropy import Statistics, moments
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
        shifted = statistics.logits - statistics.maximum[:, None]
        u, reached = solve(shifted, target, low, high)
        # The ends of what temperature can do at all: T -> 0 leaves the ties at the top, T -> inf all that is possible.
        least = (shifted == 0).sum(-1).double().log()
        most = statistics.possible.double().log()
        infeasible = (target < least) | (target > most)
        return Control(u.exp(), saturated=~reached, infeasible=infeasible)


def solve(shifted: Tensor, target: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Find u = ln T in [low, high] with H(softmax(shifted / T)) = target, for every row at once.

    shifted: logits less their maximum, `[rows, vocab]`. target: nats, `[rows]`. low, high: `[rows]`.
    Returns (u `[rows]`, whether the target was reached rather than a bound, `[rows]`). Rounds run in float32 until
    the entropy is within 1e-4 nats; one last Newton step in float64 then makes it exact to about 1e-8.
    """
    bottom, top = low, high
    u = torch.zeros_like(target).clamp(low, high)
    done = torch.zeros_like(target, dtype=torch.bool)
    reached = done
    for _ in range(_ROUNDS):
        h, slope = (m.double() for m in moments(shifted * (-u).exp()[:, None].to(shifted.dtype)))
        error = target - h
        low, high = torch.where(error > 0, u, low), torch.where(error > 0, high, u)
        hit = error.abs() < 1e-4
        at_bound = ((u >= top) & (error > 0)) | ((u <= bottom) & (error < 0))
        # A row that is done keeps its u, so that it does not depend on how long its neighbours take.
        reached = torch.where(done, reached, hit | ((high - low) < 1e-9) & ~at_bound)
        done = done | hit | at_bound | ((high - low) < 1e-9) | error.isnan()
        # Reading `done` costs nothing on the CPU; on a GPU it would stall the step, so there all rounds are run.
        if u.device.type == "cpu" and bool(done.all()):
            break
        newton = u + error / slope.clamp_min(1e-12)
        # Outside the bracket: first try the bound itself, later halve what is left.
        beyond = torch.where(newton > high, high == top, low == bottom) & (u != top) & (u != bottom)
        outside = (newton >= high) | (newton <= low)
        halved = torch.where(beyond, torch.where(newton > high, top, bottom), (low + high) / 2)
        u = torch.where(done, u, torch.where(outside, halved, newton))
    h, slope = moments(shifted.double() * (-u).exp()[:, None])
    polished = (u + (target - h) / slope.clamp_min(1e-12)).clamp(bottom, top)
    return torch.where(reached & (slope > 1e-9), polished, u), reached
