"""Four actions in the corners of entropy and varentropy."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

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

CORNERS = ("low_low", "low_high", "high_low", "high_high")


def _top_k() -> Any:
    return number(None, "top_k there; unset: the request's.", minimum=1, integer=True)


def _top_p() -> Any:
    return positive(None, "top_p there; unset: the request's.", maximum=1.0)


def _min_p() -> Any:
    return number(None, "min_p there; unset: the request's.", minimum=0.0, maximum=1.0)


@dataclass(frozen=True, slots=True)
class Quadrant(Policy):
    """Four actions, chosen by whether entropy and varentropy are low or high, and a plain one between them.

    Below low_varentropy: low_low if entropy < low_entropy, high_low if entropy > high_entropy. Above high_varentropy:
    low_high, or high_high if entropy > high_entropy. The idea, and the shape of the corners: entropix.
    """

    name: ClassVar[str] = "quadrant"
    sets_filters: ClassVar[bool] = True
    low_entropy: float = number(1.5, "Entropy below this is low.", unit="nats", minimum=0.0)
    high_entropy: float = number(1.5, "Entropy above this is high.", unit="nats", minimum=0.0)
    low_varentropy: float = number(1.5, "Varentropy below this is low.", unit="nats^2", minimum=0.0)
    high_varentropy: float = number(1.5, "Varentropy above this is high.", unit="nats^2", minimum=0.0)
    temperature: float = positive(1.0, "Plain temperature.")
    top_k: int | None = _top_k()
    top_p: float | None = _top_p()
    min_p: float | None = _min_p()
    low_low_temperature: float = positive(0.7, "Temperature where the model is sure.")
    low_low_top_k: int | None = _top_k()
    low_low_top_p: float | None = _top_p()
    low_low_min_p: float | None = _min_p()
    low_high_temperature: float = positive(1.2, "Temperature where there are a few good ways to go on.")
    low_high_top_k: int | None = _top_k()
    low_high_top_p: float | None = _top_p()
    low_high_min_p: float | None = _min_p()
    high_low_temperature: float = positive(1.0, "Temperature where there are many equal ways to go on.")
    high_low_top_k: int | None = _top_k()
    high_low_top_p: float | None = _top_p()
    high_low_min_p: float | None = _min_p()
    high_high_temperature: float = positive(0.6, "Temperature where the model is lost.")
    high_high_top_k: int | None = _top_k()
    high_high_top_p: float | None = _top_p()
    high_high_min_p: float | None = _min_p()
    entropy_gain: float = number(0.0, "The plain temperature grows by this share for each nat.", unit="1/nat")
    varentropy_gain: float = number(0.0, "And by this for each nat squared of varentropy.", unit="1/nat^2")
    min_temperature: float = lowest_temperature()
    max_temperature: float = highest_temperature()

    def conflicts(self) -> Iterator[tuple[str, str]]:
        yield from bounds_conflict(self.min_temperature, self.max_temperature)
        for name in ("entropy", "varentropy"):
            low = getattr(self, f"low_{name}")
            if getattr(self, f"high_{name}") < low:
                yield f"high_{name}", f"must be at least low_{name}, which is {low:g}"

    @property
    def largest_top_k(self) -> int:
        return max(getattr(self, f"{corner}top_k") or 1 for corner in ("", *(f"{name}_" for name in CORNERS)))

    @classmethod
    def control(cls, statistics: Statistics, parameters: Columns, state: Columns) -> Control:
        h, v = statistics.entropy.double(), statistics.varentropy.double()
        high = h > parameters["high_entropy"]
        calm, wild = v < parameters["low_varentropy"], v > parameters["high_varentropy"]
        corners = (calm & (h < parameters["low_entropy"]), wild & ~high, calm & high, wild & high)
        gain = 1.0 + parameters["entropy_gain"] * h + parameters["varentropy_gain"] * v
        action = {name: parameters[name] for name in ("temperature", "top_k", "top_p", "min_p")}
        action["temperature"] = action["temperature"] * gain
        for name, here in zip(CORNERS, corners, strict=True):
            action = {what: torch.where(here, parameters[f"{name}_{what}"], action[what]) for what in action}
        control = within(action["temperature"], parameters)
        control.top_k, control.top_p, control.min_p = action["top_k"], action["top_p"], action["min_p"]
        return control
