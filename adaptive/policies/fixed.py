"""The same temperature at every step."""

from dataclasses import dataclass
from typing import ClassVar

from adaptive.entropy import Statistics
from adaptive.parameters import positive
from adaptive.policies.base import Columns, Control, Policy


@dataclass(frozen=True, slots=True)
class Fixed(Policy):
    """The same temperature at every step."""

    name: ClassVar[str] = "fixed"
    sound: ClassVar[bool] = True
    temperature: float = positive(1.0, "Temperature; 1 leaves the distribution as it is.")

    @classmethod
    def control(cls, statistics: Statistics, parameters: Columns, state: Columns) -> Control:
        log_sum, entropy = statistics.ahead or (None, None)
        return Control(parameters["temperature"], log_sum=log_sum, scaled_entropy=entropy)
