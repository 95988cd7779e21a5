"""Prefers tokens whose probability is near a target that adapts to what was drawn."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from adaptive.entropy import Statistics
from adaptive.parameters import number, positive
from adaptive.policies.base import Columns, Control, Outcome, Policy, StateValue

_PEAK, _SHARPNESS, _WIDTH = 5.0, 10.0, 0.3


@dataclass(frozen=True, slots=True)
class AdaptiveP(Policy):
    """Prefers tokens whose probability is near a target, which moves so that the mean probability stays there.

    It reshapes what the filters left: logit = 5 - 10 d^2 / (1 + d) with d = |p - t| / 0.3, where t is twice the target
    less a decayed mean of the drawn tokens' probabilities. Source: the adaptive-p sampler of llama.cpp.
    """

    name: ClassVar[str] = "adaptive_p"
    state: ClassVar[tuple[StateValue, ...]] = (
        StateValue("weighted_sum", "Decayed sum of the drawn tokens' probabilities."),
        StateValue("total_weight", "Decayed count of them."),
    )
    target: float = number(0.5, "Probability wanted of the drawn tokens.", minimum=0.0, maximum=1.0)
    decay: float = number(0.9, "How much of the mean is kept from token to token.", minimum=0.0, maximum=0.99)
    temperature: float = positive(1.0, "Temperature before the filters.")

    def initial_state(self) -> dict[str, float]:
        return {"weighted_sum": self.target / (1.0 - self.decay), "total_weight": 1.0 / (1.0 - self.decay)}

    @classmethod
    def control(cls, statistics: Statistics, parameters: Columns, state: Columns) -> Control:
        return Control(parameters["temperature"])

    @classmethod
    def reshape(cls, probabilities: Tensor, parameters: Columns, state: Columns) -> Tensor:
        mean = state["weighted_sum"] / state["total_weight"]
        wanted = (2.0 * parameters["target"] - mean).clamp(0.0, 1.0).to(probabilities.dtype)
        distance = (probabilities - wanted[:, None]).abs() / _WIDTH
        logits = _PEAK - _SHARPNESS * distance.square() / (1.0 + distance)
        return logits.masked_fill(probabilities == 0, -float("inf")).softmax(-1)

    @classmethod
    def absorb(cls, parameters: Columns, state: Columns, outcome: Outcome) -> Columns:
        return {
            "weighted_sum": (-outcome.kept_surprisal).exp() + parameters["decay"] * state["weighted_sum"],
            "total_weight": 1.0 + parameters["decay"] * state["total_weight"],
        }
