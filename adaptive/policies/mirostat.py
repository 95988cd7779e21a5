"""Mirostat v2, in nats."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from adaptive.entropy import Statistics
from adaptive.parameters import choice, number, positive
from adaptive.policies.base import Columns, Control, Outcome, Policy, StateValue

SURPRISES = ("model", "renormalized")
_LARGEST_MU = 1e300
"""So that no setting, however large, makes mu infinite."""


@dataclass(frozen=True, slots=True)
class Mirostat(Policy):
    """Drops tokens more surprising than mu, and moves mu so that the mean surprisal of what is drawn stays near tau.

    mu <- mu - eta * (surprisal - tau). It composes with the filters, which come after it. Source: Basu et al. 2020,
    arXiv 2007.14966, which reads the model's surprisal; llama.cpp reads that of the renormalised distribution.
    """

    name: ClassVar[str] = "mirostat"
    drops: ClassVar[bool] = True
    state: ClassVar[tuple[StateValue, ...]] = (StateValue("mu", "Largest surprisal that stays.", "nats"),)
    tau: float = number(3 * math.log(2), "Target surprisal; 3 bits by default.", unit="nats", minimum=0.0)
    eta: float = number(0.1, "Learning rate.", minimum=0.0)
    initial_mu: float | None = number(None, "First mu; unset: twice tau.", unit="nats", minimum=0.0)
    surprise: str = choice("model", "Which surprisal is held: the model's, or that of what is left.", SURPRISES)
    temperature: float = positive(1.0, "Temperature before tokens are dropped.")

    def initial_state(self) -> dict[str, float]:
        return {"mu": min(2 * self.tau, _LARGEST_MU) if self.initial_mu is None else self.initial_mu}

    @classmethod
    def control(cls, statistics: Statistics, parameters: Columns, state: Columns) -> Control:
        return Control(parameters["temperature"], max_surprisal=state["mu"])

    @classmethod
    def absorb(cls, parameters: Columns, state: Columns, outcome: Outcome) -> Columns:
        surprisal = torch.where(parameters["surprise"] == 0, outcome.surprisal, outcome.kept_surprisal)
        mu = state["mu"] - parameters["eta"] * (surprisal - parameters["tau"])
        return {"mu": mu.clamp(-_LARGEST_MU, _LARGEST_MU)}
