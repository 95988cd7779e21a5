"""Temperature as a ramp over a band of entropy."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from adaptive.entropy import Statistics, power
from adaptive.parameters import choice, number, positive
from adaptive.policies.base import (
    Columns,
    Control,
    Policy,
    bounds_conflict,
    highest_temperature,
    lowest_temperature,
    within,
)

NORMALIZERS = ("nats", "vocabulary", "possible")


@dataclass(frozen=True, slots=True)
class EntropyBand(Policy):
    """A ramp of temperature over a band of entropy: by default hotter where the model is overconfident, cooler where
    it is uncertain.

    x = clamp((h - low) / (high - low), 0, 1) ** exponent; T = T_low + (T_high - T_low) * x. With temperature_at_low
    below temperature_at_high this is dynamic temperature.
    """

    name: ClassVar[str] = "entropy_band"
    low_entropy: float = number(0.5, "Where the ramp begins, in the unit of the normalizer.", unit="nats", minimum=0.0)
    high_entropy: float = positive(4.0, "Where the ramp ends; above low_entropy.", unit="nats")
    temperature_at_low: float = number(1.3, "Temperature at and below low_entropy.", minimum=0.0)
    temperature_at_high: float = number(0.7, "Temperature at and above high_entropy.", minimum=0.0)
    exponent: float = positive(1.0, "Bends the ramp; 1 is a straight line.")
    normalizer: str = choice(
        "nats",
        "Unit of the entropy: nats, or a share of ln(vocabulary size) or of ln(tokens the model holds possible).",
        NORMALIZERS,
    )
    min_temperature: float = lowest_temperature(0.01)
    max_temperature: float = highest_temperature(10.0)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        yield from bounds_conflict(self.min_temperature, self.max_temperature)
        if self.high_entropy <= self.low_entropy:
            yield "high_entropy", f"must be above low_entropy, which is {self.low_entropy:g}"
        if self.normalizer != "nats" and self.high_entropy > 1.0:
            yield "high_entropy", f"must be at most 1 with normalizer {self.normalizer}, which makes entropy a share"

    @classmethod
    def control(cls, statistics: Statistics, parameters: Columns, state: Columns) -> Control:
        h = statistics.entropy
        kind = parameters["normalizer"]
        share_of_vocabulary = h / math.log(max(statistics.vocab_size, 2))
        # ln 1 = 0 for a single possible token: its entropy is 0, and so is its share.
        share_of_possible = h / statistics.possible.clamp_min(2).log()
        h = torch.where(kind == 0, h, torch.where(kind == 1, share_of_vocabulary, share_of_possible))
        low, high = parameters["low_entropy"], parameters["high_entropy"]
        x = power(((h - low) / (high - low)).clamp(0.0, 1.0), parameters["exponent"])
        cold, hot = parameters["temperature_at_low"], parameters["temperature_at_high"]
        return within(cold + (hot - cold) * x, parameters)
