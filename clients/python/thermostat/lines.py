"""What the command writes with --json: one object a line, with the names of the contract."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf import json_format

from thermostat.events import Event
from thermostat.v1.generation_pb2 import GenerateResponse


def event_line(event: Event, **more: str) -> str:
    """An event in its envelope. more: other names beside it."""
    kind = type(event).__name__.lower()
    envelope = GenerateResponse(**{kind: event})
    return json.dumps({**more, **json_format.MessageToDict(envelope, preserving_proto_field_name=True)})


def message_line(message: Any) -> str:
    """A message."""
    return json.dumps(json_format.MessageToDict(message, preserving_proto_field_name=True))
