"""The contract as it was first released, from the image that is kept of it: what its clients can send and see."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.json_format import ParseDict, ParseError

from tests.conformance.suite import as_dict

IMAGE = Path(__file__).parents[2] / "protos/released.binpb"
_pool = descriptor_pool.DescriptorPool()
for _file in FileDescriptorSet.FromString(IMAGE.read_bytes()).file:
    _pool.Add(_file)


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"thermostat.v1.{name}"))()


def can_send(scenario: Mapping[str, Any]) -> bool:
    """Whether the released contract has every field of the scenario's request."""
    try:
        ParseDict(scenario["request"], _message("GenerateRequest"))
    except ParseError:
        return False
    return True


def seen(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """An outcome without what the released contract does not have."""

    def known(name: str, value: Any) -> Any:
        return as_dict(ParseDict(value, _message(name), ignore_unknown_fields=True))

    left = dict(outcome, tokens=[known("Token", token) for token in outcome["tokens"]])
    return left | {name: known(name.capitalize(), left[name]) for name in ("started", "finished") if name in left}
