"""What a policy is: declared parameters, declared state, and one step over all rows that use it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from adaptive.entropy import Statistics
from adaptive.parameters import Declared, positive

LARGEST_VOCABULARY = 1 << 31
LARGEST_INVERSE = 1e12
"""Of a temperature: a lower one changes nothing that a float32 logit can show, and infinity times 0 would be NaN."""
Columns = dict[str, Tensor]
"""Named float64 tensors `[rows]`: parameters or state of the rows of one kind of policy."""


@dataclass(slots=True)
class Control:
    """What a policy decides for a step; columns `[rows]`. None where a policy has no such notion.

    temperature: above 0; 0 asks for the most likely token. saturated: the wish lay outside the bounds.
    infeasible: no temperature at all could have granted it. top_k, top_p, min_p: in place of the request's own, NaN
    where that holds. max_surprisal: tokens of more surprisal after temperature are dropped before the filters, nats.
    log_sum, scaled_entropy: what the policy knows already of softmax(logits / temperature), the logsumexp of
    (logits - maximum) / temperature and the entropy; NaN where it does not.
    """

    temperature: Tensor
    saturated: Tensor | None = None
    infeasible: Tensor | None = None
    top_k: Tensor | None = None
    top_p: Tensor | None = None
    min_p: Tensor | None = None
    max_surprisal: Tensor | None = None
    log_sum: Tensor | None = None
    scaled_entropy: Tensor | None = None


@dataclass(slots=True)
class Outcome:
    """What came of a step, for the policy to learn from; columns `[rows]`, nats.

    surprisal: -ln p of the drawn token in the model's own distribution (step 1). kept_surprisal: after the filters,
    before the policy reshapes; of a token that the filters had removed (only scoring meets one), after temperature.
    """

    original_entropy: Tensor
    final_entropy: Tensor
    surprisal: Tensor
    kept_surprisal: Tensor


class StateValue(NamedTuple):
    """The declaration of one figure of a policy's state."""

    name: str
    help: str
    unit: str = ""


class Policy(Declared):
    """Base of all policies. A kind is a frozen dataclass of declared parameters with `control` for its rows.

    State belongs to the request: `state` declares its figures, `control` reads them, `absorb` renews them.
    """

    __slots__ = ()
    name: ClassVar[str]
    """The policy's name on the wire."""
    state: ClassVar[tuple[StateValue, ...]] = ()
    """The figures of its state; most policies have none."""
    sets_filters: ClassVar[bool] = False
    """Whether its control sets top_k, top_p or min_p."""
    drops: ClassVar[bool] = False
    """Whether its control sets max_surprisal."""
    sometimes_greedy: ClassVar[bool] = False
    """Whether its control may give temperature 0."""
    sound: ClassVar[bool] = False
    """Whether its control needs no second look: its columns are float64 and of their shape, its temperature is above 0,
    or NaN, and where statistics come from kernels it tells log_sum and scaled_entropy."""
    seeks: ClassVar[bool] = False
    """Whether its control looks for a temperature by its entropy."""

    @classmethod
    def summary(cls) -> str:
        """What it does, in a sentence."""
        return (cls.__doc__ or "").split("\n\n")[0].replace("\n    ", " ").strip()

    @classmethod
    def columns(cls, policies: "list[Any]", device: torch.device) -> Columns:
        """Parameters of several policies of this kind as columns; a choice becomes the index of its word, None NaN."""
        columns = {}
        for parameter in cls.parameters():
            values = [getattr(policy, parameter.name) for policy in policies]
            if parameter.choices:
                values = [parameter.choices.index(value) for value in values]
            values = [float("nan") if value is None else float(value) for value in values]
            columns[parameter.name] = torch.tensor(values, dtype=torch.float64, device=device)
        return columns

    @property
    def largest_top_k(self) -> int:
        """The largest top_k that its control can set, for a policy that sets filters: what need not be sorted."""
        return LARGEST_VOCABULARY

    def initial_state(self) -> dict[str, float]:
        """State of a request before its first token, a number for each name in `state`."""
        return {value.name: 0.0 for value in self.state}

    @classmethod
    def control(cls, statistics: Statistics, parameters: Columns, state: Columns) -> Control:
        """Decide the temperature of a step for all rows of this kind. Pure; columns in, columns out."""
        raise NotImplementedError  # every kind defines it; the base has no step of its own

    @classmethod
    def absorb(cls, parameters: Columns, state: Columns, outcome: Outcome) -> Columns:
        """State after a draw. Pure."""
        return state

    @classmethod
    def reshape(cls, probabilities: Tensor, parameters: Columns, state: Columns) -> Tensor:
        """The distribution to draw from, given the filtered one, both `[rows, vocab]`. Only a kind that overrides it
        is asked. A token of probability 0 must keep it."""
        return probabilities

    @classmethod
    def reshapes(cls) -> bool:
        """Whether it overrides `reshape`."""
        return cls.reshape.__func__ is not Policy.reshape.__func__  # type: ignore[attr-defined]


def lowest_temperature(default: float = 0.1) -> Any:
    """Declare min_temperature."""
    return positive(default, "Lowest temperature.")


def highest_temperature(default: float = 2.0) -> Any:
    """Declare max_temperature."""
    return positive(default, "Highest temperature.")


def bounds_conflict(low: float, high: float) -> Iterator[tuple[str, str]]:
    """The violation of temperature bounds that are the wrong way round, if they are."""
    if high < low:
        yield "max_temperature", f"must be at least min_temperature, which is {low:g}"


def within(temperature: Tensor, parameters: Columns) -> Control:
    """`temperature` kept within the columns min_temperature and max_temperature, and whether it had to be."""
    bounded = temperature.clamp(parameters["min_temperature"], parameters["max_temperature"])
    return Control(bounded, saturated=bounded != temperature)
