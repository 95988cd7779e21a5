"""Policies: how the server sets the temperature of each step. One frozen dataclass for each arm of `Policy`.

Parameters stand in the order of the contract; None means unset, and the server's default holds. What each parameter
means, its unit and its range: protos/thermostat/v1/policy.proto, or `thermostat policies`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeAlias

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from thermostat.v1 import policy_pb2

_KINDS: dict[str, FieldDescriptor] = {
    field.name: field for field in policy_pb2.Policy.DESCRIPTOR.oneofs_by_name["kind"].fields
}
_NUMBERS = {FieldDescriptor.TYPE_DOUBLE: float, FieldDescriptor.TYPE_FLOAT: float}
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True)
class Policy:
    """Base of the policies. Pass one as `policy=` to a client."""

    name: ClassVar[str]
    """The policy's field in the `Policy` message."""

    def to_proto(self) -> policy_pb2.Policy:
        """The message; parameters that are None stay unset. ValueError for a choice that the contract lacks."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return _build(self.name, {name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class Fixed(Policy):
    """The same temperature at every step."""

    name: ClassVar[str] = "fixed"
    temperature: float | None = None


@dataclass(frozen=True)
class Greedy(Policy):
    """Always the most likely token."""

    name: ClassVar[str] = "greedy"


@dataclass(frozen=True)
class EntropyBand(Policy):
    """A ramp of temperature over a band of entropy; normalizer is "nats", "vocabulary" or "possible"."""

    name: ClassVar[str] = "entropy_band"
    low_entropy: float | None = None
    high_entropy: float | None = None
    temperature_at_low: float | None = None
    temperature_at_high: float | None = None
    exponent: float | None = None
    normalizer: str | None = None


@dataclass(frozen=True)
class Edt(Policy):
    """Entropy-based dynamic temperature, base_temperature * base ** (theta / entropy); theta in nats."""

    name: ClassVar[str] = "edt"
    base_temperature: float | None = None
    theta: float | None = None
    base: float | None = None
    min_temperature: float | None = None
    max_temperature: float | None = None


@dataclass(frozen=True)
class TargetEntropy(Policy):
    """The temperature at which the distribution has `target_entropy` nats, solved at every step."""

    name: ClassVar[str] = "target_entropy"
    target_entropy: float | None = None
    min_temperature: float | None = None
    max_temperature: float | None = None


PolicyLike: TypeAlias = Policy | policy_pb2.Policy | str
"""A dataclass of this module, the message itself, or the words that `parse_policy` reads."""


def to_message(policy: PolicyLike) -> policy_pb2.Policy:
    """The `Policy` message of anything that names a policy."""
    if isinstance(policy, str):
        return parse_policy(policy)
    return policy.to_proto() if isinstance(policy, Policy) else policy


def parse_policy(text: str) -> policy_pb2.Policy:
    """Read `name` or `name:parameter=value,parameter=value`, such as `target_entropy:target_entropy=1.5`.

    Names are those of the contract; a choice is its short lower-case name (`normalizer=vocabulary`).
    Raises ValueError that names the policy or parameter at fault and what is allowed.
    """
    name, colon, rest = (part.strip() for part in text.partition(":"))
    given: dict[str, Any] = {}
    for assignment in rest.split(",") if colon else []:
        parameter, equals, value = (part.strip() for part in assignment.partition("="))
        if not (parameter and equals and value):
            raise ValueError(f"policy {name}: expected parameter=value, not {assignment.strip()!r}")
        if parameter in given:
            raise ValueError(f"policy {name}: parameter {parameter} is given twice")
        given[parameter] = value
    return _build(name, given)


def format_policy(message: policy_pb2.Policy) -> str:
    """The words that `parse_policy` would read as this message."""
    kind = message.WhichOneof("kind")
    if kind is None:
        return "fixed"
    words = [f"{field.name}={_word(field, value)}" for field, value in getattr(message, kind).ListFields()]
    return f"{kind}:{','.join(words)}" if words else kind


def _build(name: str, given: dict[str, Any]) -> policy_pb2.Policy:
    if name not in _KINDS:
        raise ValueError(f"no policy is named {name!r}; there are {', '.join(_KINDS)}")
    parameters = _KINDS[name].message_type.fields_by_name
    message = policy_pb2.Policy()
    kind = getattr(message, name)
    kind.SetInParent()
    for parameter, value in given.items():
        if parameter not in parameters:
            allowed = f"it takes {', '.join(parameters)}" if parameters else "it takes none"
            raise ValueError(f"policy {name}: no parameter is named {parameter!r}; {allowed}")
        try:
            setattr(kind, parameter, _read(parameters[parameter], value))
        except (TypeError, ValueError) as error:
            raise ValueError(f"policy {name}: {parameter} must be {error}, not {value!r}") from None
    return message


def _read(field: FieldDescriptor, value: Any) -> Any:
    """The value of a field; the error says what is wanted, to complete "must be ..."."""
    if field.type == FieldDescriptor.TYPE_ENUM:
        choices = _choices(field.enum_type)
        if value not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return choices[value]
    if field.type == FieldDescriptor.TYPE_BOOL:
        if str(value).lower() not in _BOOLEANS:
            raise ValueError("true or false")
        return _BOOLEANS[str(value).lower()]
    if field.type == FieldDescriptor.TYPE_STRING:
        return value
    number = _NUMBERS.get(field.type, int)
    try:
        return number(value)
    except (TypeError, ValueError):
        raise ValueError("a number" if number is float else "a whole number") from None


def _choices(enum: EnumDescriptor) -> dict[str, int]:
    """Values by short name: ENTROPY_NORMALIZER_NATS of EntropyNormalizer is `nats`. Unspecified is no choice."""
    prefix = "".join(f"_{letter}" if letter.isupper() else letter for letter in enum.name).strip("_").upper() + "_"
    return {value.name.removeprefix(prefix).lower(): value.number for value in enum.values if value.number}


def _word(field: FieldDescriptor, value: Any) -> str:
    if field.type == FieldDescriptor.TYPE_ENUM:
        return next((word for word, number in _choices(field.enum_type).items() if number == value), str(value))
    if field.type == FieldDescriptor.TYPE_BOOL:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
