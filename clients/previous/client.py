"""A Python client of the contract as it was first released, with nothing but its stubs: python client.py ADDRESS SUITE.

What it prints is what tests/conformance/conformance.proto says.
"""

import json
import sys
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict, ParseDict
from google.rpc import error_details_pb2, status_pb2

sys.path.insert(0, str(Path(__file__).parent / "build/python"))
from thermostat.v1.generation_pb2 import GenerateRequest, GenerateResponse

SERVICE_CONFIG = (Path(__file__).parents[1] / "service_config.json").read_text()


def violations(error: Any) -> list[dict[str, str]]:
    """The field violations of a failed call."""
    trailer = dict(error.trailing_metadata() or ())
    found = []
    for detail in status_pb2.Status.FromString(trailer.get("grpc-status-details-bin", b"")).details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            found += [{"field": each.field, "description": each.description} for each in bad.field_violations]
    return found


def run(generate: grpc.UnaryStreamMultiCallable, scenario: dict[str, Any]) -> dict[str, Any]:
    """Run one scenario."""
    result: dict[str, Any] = {"scenario": scenario["name"], "code": 0, "responses": []}
    tokens, wanted = 0, scenario.get("cancel_after", 0)
    call = generate(ParseDict(scenario["request"], GenerateRequest()), timeout=scenario.get("deadline_seconds"))
    try:
        for response in call:
            if response.WhichOneof("event"):
                result["responses"].append(MessageToDict(response))
            tokens += len(response.output.tokens)
            if 0 < wanted <= tokens:
                call.cancel()
    except grpc.RpcError as error:
        result |= {"code": error.code().value[0], "message": error.details(), "violations": violations(error)}
    return result


if __name__ == "__main__":
    with grpc.insecure_channel(sys.argv[1], [("grpc.service_config", SERVICE_CONFIG)]) as channel:
        generate = channel.unary_stream(
            "/thermostat.v1.GenerationService/Generate", GenerateRequest.SerializeToString, GenerateResponse.FromString
        )
        for scenario in json.loads(Path(sys.argv[2]).read_text())["scenarios"]:
            print(json.dumps(run(generate, scenario)), flush=True)
