"""What each policy should do along a stream, in float64, by the oracle's formulas: state and all."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests import oracle

Facts = dict[str, Any]
"""Of a step: z (logits), h and v (entropy, varentropy, nats)."""


@dataclass
class Walker:
    """A policy of which the temperature is a function of the step."""

    temperature: Callable[[Facts], float]

    def decide(self, facts: Facts) -> Facts:
        """The temperature of the step, and what else the policy sets (filters by their names, `reshape`)."""
        return {"temperature": self.temperature(facts)}

    def absorb(self, facts: Facts, step: oracle.Step, token: int) -> None:
        """Learn what was drawn; step: with the policy's own reshaping."""


@dataclass
class FeedbackWalker(Walker):
    """entropy_feedback; measure: of (facts, step, token)."""

    controller: oracle.Feedback = field(default_factory=lambda: oracle.Feedback(1.5, 8.0, 0.3, 0.02, 1.0, 0.1, 2.0))
    measure: Callable[[Facts, oracle.Step, int], float] = lambda facts, step, token: step.final_entropy

    def decide(self, facts: Facts) -> Facts:
        return {"temperature": self.controller.temperature}

    def absorb(self, facts: Facts, step: oracle.Step, token: int) -> None:
        self.controller.absorb(self.measure(facts, step, token))


@dataclass
class MirostatWalker(Walker):
    """Mirostat 2, with the model's surprisal or that of what is left."""

    tau: float = 3 * math.log(2)
    eta: float = 0.1
    model: bool = True
    mu: float | None = None

    def decide(self, facts: Facts) -> Facts:
        self.mu = 2 * self.tau if self.mu is None else self.mu
        return {"temperature": self.temperature(facts), "max_surprisal": self.mu}

    def absorb(self, facts: Facts, step: oracle.Step, token: int) -> None:
        surprisal = -(step.log_p if self.model else step.log_q)[token]
        self.mu -= self.eta * (surprisal - self.tau)


@dataclass
class QuadrantWalker(Walker):
    """quadrant with one threshold of each kind; corners: what each sets, over the plain action."""

    h: float = 1.5
    v: float = 1.5
    corners: dict[tuple[bool, bool], Facts] = field(default_factory=dict)

    def decide(self, facts: Facts) -> Facts:
        return self.corners[facts["h"] > self.h, facts["v"] > self.v]


@dataclass
class AdaptivePWalker(Walker):
    """llama.cpp's adaptive-p: the constants and the update as its source has them."""

    target: float = 0.5
    decay: float = 0.9

    def __post_init__(self) -> None:
        self.sum, self.weight = self.target / (1 - self.decay), 1 / (1 - self.decay)
        self.before: np.ndarray | None = None

    def decide(self, facts: Facts) -> Facts:
        return {"temperature": self.temperature(facts), "reshape": self.reshape}

    def reshape(self, log_q: np.ndarray) -> np.ndarray:
        self.before = np.exp(log_q)
        wanted = oracle.clip(2 * self.target - self.sum / self.weight, 0.0, 1.0)
        distance = np.abs(self.before - wanted) / 0.3
        logits = 5.0 - 10.0 * distance**2 / (1 + distance)
        return oracle.log_softmax(np.where(self.before > 0, logits, -np.inf))

    def absorb(self, facts: Facts, step: oracle.Step, token: int) -> None:
        self.sum, self.weight = self.before[token] + self.decay * self.sum, 1 + self.decay * self.weight


@dataclass
class PhasedWalker(Walker):
    """Phases that end after a number of tokens; the last lasts."""

    phases: list[tuple[Walker, int]] = field(default_factory=list)
    count: int = 0

    def decide(self, facts: Facts) -> Facts:
        return self.phases[0][0].decide(facts)

    def absorb(self, facts: Facts, step: oracle.Step, token: int) -> None:
        self.phases[0][0].absorb(facts, step, token)
        self.count += 1
        if self.count == self.phases[0][1]:
            self.phases, self.count = self.phases[1:], 0
