"""The temperature at which the distribution has a chosen entropy."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from adaptive.entropy import Statistics
from adaptive.parameters import number
from adaptive.policies.base import (
    Columns,
    Control,
    Policy,
    bounds_conflict,
    highest_temperature,
    lowest_temperature,
)
from adaptive.search import solve


@dataclass(frozen=True, slots=True)
class TargetEntropy(Policy):
    """The temperature at which the distribution has the target entropy, solved at every step.

    With u = ln T, dH/du is the varentropy of softmax(logits / T), which is never negative: entropy grows with
    temperature, and a bracketed iteration of Halley on u finds the one root (`adaptive.search`).
    """

    name: ClassVar[str] = "target_entropy"
    sound: ClassVar[bool] = True
    seeks: ClassVar[bool] = True
    target_entropy: float = number(1.5, "Entropy wanted after temperature, before filters.", unit="nats", minimum=0.0)
    min_temperature: float = lowest_temperature()
    max_temperature: float = highest_temperature()

    def conflicts(self) -> Iterator[tuple[str, str]]:
        return bounds_conflict(self.min_temperature, self.max_temperature)

    @classmethod
    def control(cls, statistics: Statistics, parameters: Columns, state: Columns) -> Control:
        target = parameters["target_entropy"]
        survey = statistics.source.survey
        if survey is not None:
            return survey.search(statistics.index, target, parameters["min_temperature"], parameters["max_temperature"])
        low, high = parameters["min_temperature"].log(), parameters["max_temperature"].log()
        found = solve(statistics, target, low, high)
        return Control(
            found.u.exp(),
            saturated=found.saturated,
            infeasible=_infeasible(statistics, target, found.saturated),
            log_sum=found.log_sum,
            scaled_entropy=found.entropy,
        )


def _infeasible(statistics: Statistics, target: Tensor, saturated: Tensor) -> Tensor:
    """Where no temperature at all has the target. The ends, neither of which is reached: T -> 0 leaves the ties at the
    top, T -> inf all that is possible."""
    if saturated.device.type == "cpu" and not bool(saturated.all()):  # whole rows are looked at: of those alone
        places = saturated.nonzero()[:, 0]
        if not len(places):
            return saturated
        some = _infeasible(statistics.select(places), target[places], saturated[places])
        return saturated.index_copy(0, places, some)
    least = statistics.ties.double().log()
    most = statistics.possible.double().log()
    return saturated & ((target <= least) | (target >= most))
