"""How a policy or a filter declares its parameters: once, with unit, range, default and help.

Validation, the wire, the list of policies and the documentation are all read from this declaration.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any


class ParameterError(ValueError):
    """One or more parameters are out of range. `violations` holds (parameter, what is allowed) for each."""

    def __init__(self, violations: list[tuple[str, str]]) -> None:
        self.violations = violations
        super().__init__("; ".join(f"{name}: {allowed}" for name, allowed in violations))


@dataclasses.dataclass(frozen=True, slots=True)
class Parameter:
    """The declaration of one parameter: a number within a range, one of `choices`, or a flag."""

    name: str
    default: Any
    help: str
    unit: str = ""
    minimum: float | None = None
    minimum_excluded: bool = False
    maximum: float | None = None
    maximum_excluded: bool = False
    choices: tuple[str, ...] = ()
    integer: bool = False
    flag: bool = False

    @property
    def allowed(self) -> str:
        """What is allowed, in words: "must be a finite number above 0 and at most 1"."""
        if self.flag:
            return "must be true or false"
        if self.choices:
            return "must be one of " + ", ".join(self.choices)
        bounds = []
        if self.minimum is not None:
            bounds.append(f"{'above' if self.minimum_excluded else 'at least'} {self.minimum:g}")
        if self.maximum is not None:
            bounds.append(f"{'below' if self.maximum_excluded else 'at most'} {self.maximum:g}")
        noun = "a whole number" if self.integer else "a finite number"
        return f"must be {noun}" + (" " + " and ".join(bounds) if bounds else "")

    def accepts(self, value: Any) -> bool:
        """Whether `value` is allowed."""
        if self.flag:
            return isinstance(value, bool)
        if self.choices:
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, int if self.integer else (int, float)):
            return False
        if not math.isfinite(value):
            return False
        if self.minimum is not None and (value <= self.minimum if self.minimum_excluded else value < self.minimum):
            return False
        return self.maximum is None or (value < self.maximum if self.maximum_excluded else value <= self.maximum)


def number(default: float | None, help: str, **declaration: Any) -> Any:
    """Declare a number as a field of a dataclass. `default=None` makes it optional: `None` means off."""
    return dataclasses.field(default=default, metadata={"help": help, **declaration})


def positive(default: float | None, help: str, **declaration: Any) -> Any:
    """Declare a number above 0."""
    return number(default, help, minimum=0.0, minimum_excluded=True, **declaration)


def choice(default: str | None, help: str, choices: tuple[str, ...]) -> Any:
    """Declare a choice among words as a field of a dataclass. `default=None` makes it optional."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


def flag(help: str) -> Any:
    """Declare something that is off unless it is switched on."""
    return dataclasses.field(default=False, metadata={"help": help, "flag": True})


class Declared:
    """Base of dataclasses whose fields are parameters. Raises ParameterError with every violation when built."""

    __slots__ = ()

    @classmethod
    def parameters(cls) -> Iterator[Parameter]:
        """The declarations, in order."""
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            yield Parameter(field.name, field.default, **field.metadata)

    def __post_init__(self) -> None:
        violations = [
            (parameter.name, parameter.allowed)
            for parameter in self.parameters()
            if not parameter.accepts(value := getattr(self, parameter.name))
            and not (value is None and parameter.default is None)
        ]
        if not violations:
            violations = list(self.conflicts())
        if violations:
            raise ParameterError(violations)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Violations that concern several parameters at once; each alone is in its range."""
        return iter(())
