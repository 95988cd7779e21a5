"""A policy from outside: the temperature sways between two values, and stands still where the model is unsure."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from adaptive.entropy import Statistics
from adaptive.parameters import choice, number, positive
from adaptive.policies import Columns, Control, Outcome, Policy, StateValue

SHAPES = ("sine", "square")


@dataclass(frozen=True, slots=True)
class Sway(Policy):
    """Temperature that sways around a base from token to token: base + swing * wave(steps / period)."""

    name: ClassVar[str] = "sway"
    state: ClassVar[tuple[StateValue, ...]] = (StateValue("steps", "How far the wave has come.", "tokens"),)
    base: float = positive(1.0, "Temperature in the middle.")
    swing: float = number(0.5, "How far it sways; below base.", minimum=0.0)
    period: int = number(8, "Tokens from crest to crest.", unit="tokens", minimum=2, maximum=1000, integer=True)
    shape: str = choice("sine", "Form of the wave.", SHAPES)
    still_above: float | None = number(None, "Entropy above which it does not move on.", unit="nats", minimum=0.0)
    fail_at: int | None = number(None, "Raise at this step: to see that nobody else is hurt.", minimum=0, integer=True)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.swing >= self.base:
            yield "swing", f"must be below base, which is {self.base:g}"

    @classmethod
    def control(cls, statistics: Statistics, parameters: Columns, state: Columns) -> Control:
        if bool((state["steps"] == parameters["fail_at"]).any()):
            raise ArithmeticError("it was asked to fail")
        wave = torch.sin(2 * math.pi * state["steps"] / parameters["period"])
        wave = torch.where(parameters["shape"] == 1, wave.sign(), wave)
        return Control(parameters["base"] + parameters["swing"] * wave)

    @classmethod
    def absorb(cls, parameters: Columns, state: Columns, outcome: Outcome) -> Columns:
        moves = ~(outcome.original_entropy > parameters["still_above"])  # NaN, unset, is never exceeded
        return {"steps": state["steps"] + moves}
