"""What a policy is: declared parameters, and one step over all rows that use it."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from adaptive.entropy import Statistics
from adaptive.parameters import Declared

Columns = dict[str, Tensor]
"""Named tensors `[rows]`: parameters or state of the rows of one kind of policy."""


@dataclass(slots=True)
class Control:
    """What a policy decides for a step; columns `[rows]`.

    temperature: above 0; NaN asks for the most likely token. saturated: the wish lay outside the bounds.
    infeasible: no temperature at all could have granted it. None where a policy has no such notion.
    """

    temperature: Tensor
    saturated: Tensor | None = None
    infeasible: Tensor | None = None


class Policy(Declared):
    """Base of all policies. A kind is a frozen dataclass of declared parameters with `control` for its rows.

    State belongs to the request: `initial_state` names its columns, `control` reads them, `absorb` renews them.
    """

    __slots__ = ()
    name: ClassVar[str]
    """The policy's name on the wire."""

    @classmethod
    def summary(cls) -> str:
        """What it does, in a sentence."""
        return (cls.__doc__ or "").split("\n\n")[0].replace("\n    ", " ").strip()

    @classmethod
    def columns(cls, policies: "list[Policy]", device: torch.device) -> Columns:
        """Parameters of several policies of this kind as columns; a choice becomes the index of its word."""
        columns = {}
        for parameter in cls.parameters():
            values = [getattr(policy, parameter.name) for policy in policies]
            if parameter.choices:
                values = [parameter.choices.index(value) for value in values]
            columns[parameter.name] = torch.tensor(values, dtype=torch.float32, device=device)
        return columns

    def initial_state(self) -> dict[str, float]:
        """State of a request before its first token. Most policies have none."""
        return {}

    @classmethod
    def control(cls, statistics: Statistics, parameters: Columns, state: Columns) -> Control:
        """Decide the temperature of a step for all rows of this kind. Pure; columns in, columns out."""
        raise NotImplementedError  # every kind defines it; the base has no step of its own

    @classmethod
    def absorb(cls, parameters: Columns, state: Columns, surprisal: Tensor, final_entropy: Tensor) -> Columns:
        """State after a draw. surprisal: -ln p of the drawn token at step 1, nats; final_entropy: nats."""
        return state

    def settings(self) -> dict[str, float | str]:
        """The parameters by name, defaults filled in."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]


def bounds_conflict(low: float, high: float) -> Iterator[tuple[str, str]]:
    """The violation of temperature bounds that are the wrong way round, if they are."""
    if high < low:
        yield "max_temperature", f"must be at least min_temperature, which is {low:g}"


def within(temperature: Tensor, parameters: Columns) -> Control:
    """`temperature` kept within the columns min_temperature and max_temperature, and whether it had to be."""
    bounded = temperature.clamp(parameters["min_temperature"], parameters["max_temperature"])
    return Control(bounded, saturated=bounded != temperature)
