"""Entropy-based dynamic temperature (Zhang et al. 2024, arXiv 2403.14541)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from adaptive.entropy import Statistics
from adaptive.parameters import number, positive
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
class Edt(Policy):
    """Entropy-based dynamic temperature, T = T0 * N ** (theta / entropy): cool where the model is sure.

    Source: Zhang et al. 2024, arXiv 2403.14541. Towards entropy 0 the formula goes to 0; min_temperature takes over.
    """

    name: ClassVar[str] = "edt"
    base_temperature: float = positive(1.0, "Temperature approached at high entropy (T0).")
    theta: float = number(1.5, "Strength; 0 is a fixed temperature.", unit="nats", minimum=0.0)
    base: float = positive(0.8, "Base of the power (N).", maximum=1.0)
    min_temperature: float = lowest_temperature(0.01)
    max_temperature: float = highest_temperature()

    def conflicts(self) -> Iterator[tuple[str, str]]:
        return bounds_conflict(self.min_temperature, self.max_temperature)

    @classmethod
    def control(cls, statistics: Statistics, parameters: Columns, state: Columns) -> Control:
        # N ** (theta / H) = exp(theta ln N / H); where theta is 0 or N is 1 there is no effect, even at entropy 0.
        drive = parameters["theta"] * parameters["base"].log()
        effect = torch.where(drive < 0, drive / statistics.entropy, 0.0)
        return within(parameters["base_temperature"] * effect.exp(), parameters)
