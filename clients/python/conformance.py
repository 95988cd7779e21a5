"""The conformance program of the synchronous client: python conformance.py ADDRESS SUITE."""

import json
import sys
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict

from thermostat import Client, Event, Generation, Output, ThermostatError
from thermostat.v1.generation_pb2 import GenerateRequest


class Result:
    """What came of a scenario."""

    def __init__(self, scenario: dict[str, Any]) -> None:
        self.line: dict[str, Any] = {"scenario": scenario["name"], "code": 0, "responses": []}
        self._cancel_after = scenario.get("cancel_after", 0)
        self._tokens = 0

    def add(self, event: Event) -> bool:
        """Note an event; whether it is time to cancel."""
        self.line["responses"].append({type(event).__name__.lower(): MessageToDict(event)})
        self._tokens += len(event.tokens) if isinstance(event, Output) else 0
        return 0 < self._cancel_after <= self._tokens

    def fail(self, error: ThermostatError) -> None:
        """Note how the call failed."""
        violations = [{"field": each.field, "description": each.description} for each in error.violations]
        self.line |= {"code": error.code.value[0], "message": error.message, "violations": violations}


def request_of(scenario: dict[str, Any]) -> GenerateRequest:
    """The scenario's request."""
    return ParseDict(scenario["request"], GenerateRequest())


def run(client: Client, scenario: dict[str, Any]) -> dict[str, Any]:
    """Run one scenario."""
    result = Result(scenario)
    try:
        events: Generation = client.generate(request_of(scenario), timeout=scenario.get("deadline_seconds"))
        for event in events:
            if result.add(event):
                events.cancel()
    except ThermostatError as error:
        result.fail(error)
    return result.line


if __name__ == "__main__":
    with Client(sys.argv[1]) as client:
        for scenario in json.loads(Path(sys.argv[2]).read_text())["scenarios"]:
            print(json.dumps(run(client, scenario)), flush=True)
