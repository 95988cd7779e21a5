"""The web port over real HTTP: Connect and gRPC-Web to the same server, what pages may call it, and its end."""

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from email.message import Message
from pathlib import Path

import pytest

from server import app
from server.config import Config
from tests.whole.conftest import ROOT, process
from thermostat import Client, Started

ORIGIN = "http://page.example"
GENERATE = "/thermostat.v1.GenerationService/Generate"


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, str]]:
    """A server with one place: its gRPC address and its web address."""
    with process("--max-rows", "1", "--web-port", "0", "--web-origin", ORIGIN) as (running, address):
        yield address, running.stdout.readline().removeprefix("web on ").strip()


@pytest.fixture
def web(served) -> str:
    return served[1]


def call(web: str, method: str, path: str, body: str | None, headers: dict[str, str]) -> tuple[int, Message, bytes]:
    """Status, headers and body of a request."""
    with closing(http.client.HTTPConnection(web, timeout=30)) as connection:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()


@contextmanager
def generating(web: str) -> Iterator[http.client.HTTPResponse]:
    """A long generation that has begun to come, over Connect; left, its connection is closed."""
    body = json.dumps({"text": "def ", "stopping": {"max_output_tokens": 2000, "ignore_eos": True}}).encode()
    with closing(http.client.HTTPConnection(web, timeout=30)) as connection:
        envelope = b"\0" + len(body).to_bytes(4, "big") + body
        connection.request("POST", GENERATE, envelope, {"content-type": "application/connect+json"})
        with connection.getresponse() as response:
            assert response.read(100)
            yield response


def buf(web: str, protocol: str, request: object) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("buf"), "curl", "--protocol", protocol, "--schema", "protos"]
    url = f"http://{web}{GENERATE}"
    return subprocess.run([*command, "-d", json.dumps(request), url], capture_output=True, text=True, cwd=ROOT)


def test_plain_http_and_json_call_a_method(web):
    path, headers = "/thermostat.v1.ModelService/GetModel", {"content-type": "application/json"}
    status, _, body = call(web, "POST", path, "{}", headers)
    assert status == 200
    assert json.loads(body)["model"]["name"] == "embedded"


@pytest.mark.parametrize("protocol", ["connect", "grpcweb"])
def test_both_protocols_stream_and_bring_the_details_of_errors(web, protocol):
    done = buf(web, protocol, {"text": "def ", "stopping": {"max_output_tokens": 3}})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"textDelta"') == 3
    refused = json.loads(buf(web, protocol, {"text": "def ", "filters": {"top_p": 2}}).stderr)
    assert refused["code"] == "invalid_argument"
    assert "google.rpc.BadRequest" in [detail["type"] for detail in refused["details"]]


def test_only_pages_of_the_given_origin_may_call(web):
    ask = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    _, headers, _ = call(web, "OPTIONS", GENERATE, None, ask | {"origin": ORIGIN})
    assert headers["access-control-allow-origin"] == ORIGIN
    status, headers, _ = call(web, "OPTIONS", GENERATE, None, ask | {"origin": "http://other.example"})
    assert (status, headers["access-control-allow-origin"]) == (400, None)


def test_a_browser_that_goes_away_frees_its_place(served):
    address, web = served
    with generating(web):
        pass
    with Client(address) as client:
        started = next(client.generate("def ", max_output_tokens=1))
    assert isinstance(started, Started)
    assert started.queue_time.ToNanoseconds() < 2e9


def test_a_server_ends_in_order_while_a_page_reads():
    with process("--web-port", "0", "--grace", "0.5") as (running, _):
        with generating(running.stdout.readline().removeprefix("web on ").strip()) as response:
            running.terminate()
            assert b'"error"' in response.read()
        assert running.wait(10) == 0


def test_a_token_is_asked_for_as_in_grpc(tmp_path):
    tokens = tmp_path / "tokens.toml"
    tokens.write_text('[page]\ntoken = "a-token-of-a-page"\n')
    with process("--web-port", "0", "--tokens", str(tokens)) as (running, _):
        web = running.stdout.readline().removeprefix("web on ").strip()
        path, headers = "/thermostat.v1.ModelService/GetModel", {"content-type": "application/json"}
        status, _, body = call(web, "POST", path, "{}", headers)
        assert (status, json.loads(body)["code"]) == (401, "unauthenticated")
        bearer = {"authorization": "Bearer a-token-of-a-page"}
        assert call(web, "POST", path, "{}", headers | bearer)[0] == 200


def test_plain_http_where_others_can_connect_is_refused_unless_it_is_insisted_on():
    certificate = {"tls_cert": Path("cert.pem"), "tls_key": Path("key.pem")}
    with pytest.raises(ValueError, match="--web-port is plain HTTP"):
        Config(web_port=8080, host="0.0.0.0", **certificate)
    with pytest.raises(ValueError, match="--tls-client-ca"):
        Config(web_port=8080, tls_client_ca=Path("ca.pem"), **certificate)
    assert Config(web_port=8080, host="0.0.0.0", insecure=True).web_port == 8080


def test_without_the_extra_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "server.web", None)
    with pytest.raises(RuntimeError, match=r"thermostat-server\[web\]"):
        app.web_port(Config(web_port=0))
