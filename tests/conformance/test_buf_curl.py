"""`buf curl` against a live server: list, describe, stream, the details of an error; with reflection and without."""

import base64
import json
import subprocess
import sys
from pathlib import Path

from google.rpc import error_details_pb2

ROOT = Path(__file__).parents[2]
BUF = Path(sys.executable).with_name("buf")
GENERATE = "thermostat.v1.GenerationService/Generate"


def curl(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [BUF, "curl", "--protocol", "grpc", "--http2-prior-knowledge", *arguments, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)


def messages(text: str) -> list[dict]:
    """The JSON documents that stand in a text one after the other."""
    found, decoder = [], json.JSONDecoder()
    while text := text.strip():
        message, end = decoder.raw_decode(text)
        found.append(message)
        text = text[end:]
    return found


def test_services_and_methods_are_listed_by_reflection(address):
    services = curl(f"http://{address}", "--list-services").stdout.split()
    assert {"thermostat.v1.GenerationService", "thermostat.v1.ModelService", "grpc.health.v1.Health"} <= set(services)
    assert GENERATE in curl(f"http://{address}", "--list-methods").stdout.split()


def test_a_generation_streams(address):
    request = {"text": "def ", "policy": {"entropy_band": {}}, "seed": "7", "stopping": {"max_output_tokens": 3}}
    streamed = messages(curl(f"http://{address}/{GENERATE}", "-d", json.dumps(request)).stdout)
    assert [next(iter(message)) for message in streamed] == ["started", *["output"] * 3, "finished"]
    assert streamed[1]["output"]["tokens"][0]["samplingInfo"]["temperature"] > 0


def test_an_error_shows_its_violations_and_exits_with_eight_times_its_code(address):
    done = curl(f"http://{address}/{GENERATE}", "-d", '{"text": "def ", "filters": {"top_p": 2}}')
    assert done.returncode == 8 * 3
    details = {each["type"]: each["value"] for each in json.loads(done.stderr)["details"]}
    bad = error_details_pb2.BadRequest.FromString(base64.b64decode(details["google.rpc.BadRequest"] + "=="))
    assert [violation.field for violation in bad.field_violations] == ["filters.top_p"]


def test_without_reflection_the_schema_does(address):
    done = curl(f"http://{address}/thermostat.v1.ModelService/GetModel", "--schema", "protos", "-d", "{}")
    assert json.loads(done.stdout)["model"]["name"] == "embedded"
