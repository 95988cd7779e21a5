"""A bell of temperature around a chosen entropy."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

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
class Bell(Policy):
    """A bell of temperature around a chosen entropy, base + peak * exp(-(h - center)^2 / (2 width^2)).

    h is the entropy as a share of ln(vocabulary size). A negative peak makes a valley. The shape: qr-sampler.
    """

    name: ClassVar[str] = "bell"
    base_temperature: float = positive(0.6, "Temperature far from the center.")
    peak: float = number(0.6, "Height of the bell; negative makes a valley.")
    center: float = number(0.3, "Where the bell stands.", unit="share of ln V", minimum=0.0, maximum=1.0)
    width: float = positive(0.15, "Its standard deviation.", unit="share of ln V")
    min_temperature: float = lowest_temperature()
    max_temperature: float = highest_temperature()

    def conflicts(self) -> Iterator[tuple[str, str]]:
        return bounds_conflict(self.min_temperature, self.max_temperature)

    @classmethod
    def control(cls, statistics: Statistics, parameters: Columns, state: Columns) -> Control:
        share = statistics.entropy / math.log(max(statistics.vocab_size, 2))
        bell = (-0.5 * ((share - parameters["center"]) / parameters["width"]).square()).exp()
        return within(parameters["base_temperature"] + parameters["peak"] * bell, parameters)
