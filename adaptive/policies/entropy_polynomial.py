"""Sharpens where entropy is high, by a polynomial."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from adaptive.entropy import Statistics
from adaptive.parameters import number
from adaptive.policies.base import (
    Columns,
    Control,
    Policy,
    bounds_conflict,
    highest_temperature,
    lowest_temperature,
    within,
)


@dataclass(frozen=True, slots=True)
class EntropyPolynomial(Policy):
    """Sharpens where entropy is high: T = 1 / max(polynomial(entropy), 1) above the threshold, 1 below.

    Source: Velickovic et al. 2024, "softmax is not enough", arXiv 2410.01104. With its coefficients it sharpens
    between 0.85 and 5.94 nats only.
    """

    name: ClassVar[str] = "entropy_polynomial"
    coefficient_4: float = number(-0.037, "Coefficient of entropy to the fourth.")
    coefficient_3: float = number(0.481, "Coefficient of entropy cubed.")
    coefficient_2: float = number(-2.3, "Coefficient of entropy squared.")
    coefficient_1: float = number(4.917, "Coefficient of entropy.")
    coefficient_0: float = number(-1.791, "Constant term.")
    threshold: float = number(0.5, "Entropy up to which T is 1.", unit="nats", minimum=0.0)
    min_temperature: float = lowest_temperature()
    max_temperature: float = highest_temperature()

    def conflicts(self) -> Iterator[tuple[str, str]]:
        return bounds_conflict(self.min_temperature, self.max_temperature)

    @classmethod
    def control(cls, statistics: Statistics, parameters: Columns, state: Columns) -> Control:
        h = statistics.entropy.double()
        beta = torch.zeros_like(h)
        for power in (4, 3, 2, 1, 0):  # Horner
            beta = beta * h + parameters[f"coefficient_{power}"]
        beta = torch.where(h > parameters["threshold"], beta.clamp_min(1.0), 1.0)
        return within(1.0 / beta, parameters)
