"""A policy in words: `name:parameter=value,parameter=value`, or the message in protobuf's JSON."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.json_format import MessageToJson, ParseDict, ParseError

from thermostat.v1 import policy_pb2

_KINDS: dict[str, FieldDescriptor] = {
    field.name: field for field in policy_pb2.Policy.DESCRIPTOR.oneofs_by_name["kind"].fields
}
_NUMBERS = {FieldDescriptor.TYPE_DOUBLE: float, FieldDescriptor.TYPE_FLOAT: float}
_STRUCTURED = {"phased", "plugin"}
"""The kinds that words cannot say."""
_BOOLEANS = {"true": True, "false": False}


def parse_policy(text: str) -> policy_pb2.Policy:
    """Read `name` or `name:parameter=value,parameter=value`, such as `target_entropy:target_entropy=1.5`.

    Names are those of the contract; a choice is its short lower-case name (`normalizer=vocabulary`). A preset is
    `preset:name=entropix`. What begins with a brace is the message in protobuf's JSON, which can say everything.
    Raises ValueError that names the policy or parameter at fault and what is allowed.
    """
    if text.lstrip().startswith("{"):
        try:
            return ParseDict(json.loads(text), policy_pb2.Policy())
        except (ValueError, ParseError) as error:
            raise ValueError(f"policy: {error}") from None
    name, colon, rest = (part.strip() for part in text.partition(":"))
    given: dict[str, Any] = {}
    for assignment in rest.split(",") if colon else []:
        parameter, equals, value = (part.strip() for part in assignment.partition("="))
        if not (parameter and equals and value):
            raise ValueError(f"policy {name}: expected parameter=value, not {assignment.strip()!r}")
        if parameter in given:
            raise ValueError(f"policy {name}: parameter {parameter} is given twice")
        given[parameter] = value
    return build(name, given)


def format_policy(message: policy_pb2.Policy) -> str:
    """The words that `parse_policy` would read as this message."""
    kind = message.WhichOneof("kind")
    if kind is None:
        return "fixed"
    if kind in _STRUCTURED:
        return MessageToJson(message, preserving_proto_field_name=True, indent=None)
    words = [f"{field.name}={_word(field, value)}" for field, value in getattr(message, kind).ListFields()]
    return f"{kind}:{','.join(words)}" if words else kind


def build(name: str, given: dict[str, Any]) -> policy_pb2.Policy:
    """The message of a kind with some of its parameters set. ValueError that names what is wrong."""
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
        if parameters[parameter].type == FieldDescriptor.TYPE_MESSAGE:
            raise ValueError(f'policy {name}: {parameter} has parts; give the policy as JSON, {{"{name}": ...}}')
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
