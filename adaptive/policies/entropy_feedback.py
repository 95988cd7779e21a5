"""A controller that holds entropy or surprisal at a setpoint over the run."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from adaptive.entropy import Statistics
from adaptive.parameters import choice, number, positive
from adaptive.policies.base import (
    Columns,
    Control,
    Outcome,
    Policy,
    StateValue,
    bounds_conflict,
    highest_temperature,
    lowest_temperature,
    within,
)

MEASURES = ("final_entropy", "original_entropy", "surprisal")
_LARGEST = 1e12
"""No setting counts for more: sums stay finite, and a mean forgets something."""


@dataclass(frozen=True, slots=True)
class EntropyFeedback(Policy):
    """A proportional-integral controller that holds the mean entropy or surprisal of the run at a setpoint.

    e = setpoint - mean of the measure; T = base_temperature * exp(kp * e + ki * sum of e). The mean forgets half of
    what it knew in half_life tokens. Anti-windup: while T is at a bound, an e that pushes further is not added up.
    """

    name: ClassVar[str] = "entropy_feedback"
    state: ClassVar[tuple[StateValue, ...]] = (
        StateValue("mean", "Weighted mean of the measure so far.", "nats"),
        StateValue("weight", "How much the mean knows, 0 to 1."),
        StateValue("integral", "Sum of the errors.", "nats"),
    )
    setpoint: float = number(1.5, "The value to hold.", unit="nats", minimum=0.0)
    measure: str = choice("final_entropy", "What is held.", MEASURES)
    half_life: float = positive(8.0, "Tokens after which the mean has forgotten half.", unit="tokens")
    kp: float = number(0.3, "Proportional gain.", unit="1/nat", minimum=0.0)
    ki: float = number(0.02, "Integral gain.", unit="1/nat", minimum=0.0)
    base_temperature: float = positive(1.0, "Temperature without error.")
    min_temperature: float = lowest_temperature()
    max_temperature: float = highest_temperature()

    def conflicts(self) -> Iterator[tuple[str, str]]:
        return bounds_conflict(self.min_temperature, self.max_temperature)

    @classmethod
    def control(cls, statistics: Statistics, parameters: Columns, state: Columns) -> Control:
        return within(_wish(parameters, state), parameters)

    @classmethod
    def absorb(cls, parameters: Columns, state: Columns, outcome: Outcome) -> Columns:
        columns = torch.stack([getattr(outcome, measure).double() for measure in MEASURES])
        measured = columns.gather(0, parameters["measure"].long()[None])[0]
        keep = (-math.log(2.0) / parameters["half_life"].clamp(max=_LARGEST)).exp()
        weight = keep * state["weight"] + (1.0 - keep)
        # The mean of what was seen, not of a zero before it: each token's share is its own weight of all so far.
        mean = state["mean"] + (measured - state["mean"]) * (1.0 - keep) / weight
        error = (parameters["setpoint"] - mean).clamp(max=_LARGEST)
        renewed = {"mean": mean, "weight": weight, "integral": state["integral"] + error}
        wish = _wish(parameters, renewed)
        windup = (wish > parameters["max_temperature"]) & (error > 0)
        windup |= (wish < parameters["min_temperature"]) & (error < 0)
        renewed["integral"] = torch.where(windup, state["integral"], renewed["integral"])
        return renewed


def _wish(parameters: Columns, state: Columns) -> Tensor:
    """The temperature before bounds; without a token seen there is no error yet."""
    error = torch.where(state["weight"] > 0, parameters["setpoint"] - state["mean"], 0.0).clamp(max=_LARGEST)
    drive = parameters["kp"] * error + parameters["ki"] * state["integral"]
    return parameters["base_temperature"] * drive.nan_to_num(0.0).clamp(-50.0, 50.0).exp()
