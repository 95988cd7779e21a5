"""The conformance suite: run a client's program over it, boil its results down, compare them with what is expected."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

from thermostat.v1.generation_pb2 import GenerateResponse

HERE = Path(__file__).parent
EXPECTED = HERE / "expected.json"
LIVE, FUTURE = HERE / "live.json", HERE / "future.json"
TOLERANCE = 1e-4
CANCELLED, DEADLINE_EXCEEDED = 1, 4

Outcome = dict[str, Any]


@dataclass(frozen=True)
class Program:
    """How a client's program is started, and the folder of `clients/` that it runs in."""

    command: tuple[str, ...]
    folder: str

    def output(self, *arguments: str) -> str:
        """What the program prints; AssertionError if it fails."""
        done = subprocess.run(
            [*self.command, *arguments],
            cwd=HERE.parents[1] / "clients" / self.folder,
            env=os.environ | {"GRPC_GO_RETRY": "on"},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, f"{self.command} ended with {done.returncode}:\n{done.stderr[-2000:]}"
        return done.stdout

    def run(self, address: str, suite: Path) -> list[dict[str, Any]]:
        """The results of a suite."""
        return [json.loads(line) for line in self.output(address, str(suite)).splitlines()]


def scenarios(suite: Path) -> list[dict[str, Any]]:
    """The scenarios of a suite."""
    return json.loads(suite.read_text())["scenarios"]


def outcome(scenario: Mapping[str, Any], result: Mapping[str, Any]) -> Outcome:
    """What of a result must be the same each time.

    Not the identifier, nor times, nor how tokens are dealt to messages; of a call that was cancelled only the tokens
    that it waited for, of one whose deadline passed none.
    """
    found: Outcome = {"code": result.get("code", 0), "tokens": [], "text": ""}
    if found["code"] not in (CANCELLED, DEADLINE_EXCEEDED):
        found["message"] = result.get("message", "")
        found["violations"] = result.get("violations", [])
    elif found["code"] == DEADLINE_EXCEEDED:
        return found
    for message in result.get("responses", []):
        _take(found, as_dict(ParseDict(message, GenerateResponse())))
    if found["code"] == CANCELLED:
        found["tokens"] = found["tokens"][: scenario["cancel_after"]]
        del found["text"]
    return found


def as_dict(message: Message) -> dict[str, Any]:
    """A message as a dictionary; fields that cannot be absent are there also where they are 0."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _take(found: Outcome, message: dict[str, Any]) -> None:
    ((event, value),) = message.items()  # an event, and exactly one: unknown ones are not printed
    if event == "output":
        found["tokens"] += value.get("tokens", [])
        found["text"] += value.get("text_delta", "")
        return
    assert event not in found, f"a second {event}"
    assert event == "finished" or not found["tokens"], "started comes first"
    for volatile in ("generation_id", "queue_time", "timing"):
        value.pop(volatile, None)
    found[event] = value


def differences(expected: Any, found: Any, path: str = "") -> list[str]:
    """Where two outcomes differ; numbers may by TOLERANCE, of themselves where above 1."""
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = sorted({*expected, *found})
        return [d for key in keys for d in differences(expected.get(key), found.get(key), f"{path}.{key}")]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        return [d for i, (one, other) in pairs for d in differences(one, other, f"{path}[{i}]")]
    if isinstance(expected, float) and isinstance(found, float | int):
        near = abs(expected - found) <= TOLERANCE * max(1, abs(expected))
        return [] if near else [f"{path}: {found}, not {expected}"]
    return [] if expected == found else [f"{path}: {found!r}, not {expected!r}"]


def late(result: Mapping[str, Any], seconds: float = 2.0) -> bool:
    """Whether a generation waited in the queue: on a server with one place, because the one before it was not freed."""
    for message in result.get("responses", []):
        started = ParseDict(message, GenerateResponse(), ignore_unknown_fields=True).started
        if started.queue_time.ToNanoseconds() > seconds * 1e9:
            return True
    return False


def table(rows: Mapping[str, Mapping[str, Sequence[str]]]) -> str:
    """Scenarios down, clients across: "." is as expected, "X" is not, "-" cannot be asked by an old client."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    width = max(map(len, names))
    lines = [" " * width + "  " + "  ".join(rows)]
    for name in names:
        marks = {client: "-" if name not in row else "X" if row[name] else "." for client, row in rows.items()}
        lines.append(f"{name:{width}}  " + "  ".join(mark.center(len(client)) for client, mark in marks.items()))
    return "\n".join(lines)
