"""Always the most likely token."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from adaptive.entropy import Statistics
from adaptive.policies.base import Columns, Control, Policy


@dataclass(frozen=True, slots=True)
class Greedy(Policy):
    """Always the most likely token; among equals the one with the lowest id."""

    name: ClassVar[str] = "greedy"
    sometimes_greedy: ClassVar[bool] = True

    @classmethod
    def control(cls, statistics: Statistics, parameters: Columns, state: Columns) -> Control:
        return Control(torch.zeros_like(statistics.entropy))
