"""Who is let in: real server processes, real sockets, real certificates."""

import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import trustme
from click.testing import CliRunner
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.whole.conftest import ROOT, process
from thermostat import AccessDenied, Client, Finished, InvalidRequest, Overloaded, ThermostatError, Unavailable, tls
from thermostat.cli import main

ALICE, BOB = "alice's token, long enough", "bob's token, long enough"
TOKENS = f"""
[alice]
token = "{ALICE}"
max_running = 1
max_waiting = 1
[bob]
token = "{BOB}"
services = ["thermostat.v1.ModelService"]
"""
CANARY = "xyzzyprompt"


@dataclass
class Secure:
    """A server with TLS and tokens, its files, and how to connect."""

    address: str
    folder: Path
    authority: trustme.CA
    running: subprocess.Popen

    def client(self, token: str | None = ALICE) -> Client:
        return Client(self.address, credentials=tls(self.folder / "ca.pem"), token=token)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def served(self) -> int:
        """Serial number of the certificate that a new connection gets."""
        host, port = self.address.rsplit(":", 1)
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection((host, int(port))) as plain,
            context.wrap_socket(plain, server_hostname=host) as wrapped,
        ):
            return int(wrapped.getpeercert()["serialNumber"], 16)


def write(certificate: trustme.LeafCert, folder: Path, name: str) -> None:
    (folder / f"{name}.key").write_bytes(certificate.private_key_pem.bytes())
    (folder / f"{name}.pem").write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))


def eventually(holds: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("secure")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    write(authority.issue_cert("127.0.0.1"), folder, "server")
    (folder / "tokens.toml").write_text(TOKENS)
    arguments = ["--tls-cert", folder / "server.pem", "--tls-key", folder / "server.key"]
    arguments += ["--tokens", folder / "tokens.toml", "--uds", folder / "socket", "--log-level", "debug"]
    with process(*map(str, arguments), log=folder / "log") as (running, address):
        yield Secure(address, folder, authority, running)


def test_a_token_lets_in_and_its_name_stands_in_the_log(secure):
    with secure.client() as client:
        assert isinstance(list(client.generate("def ", max_output_tokens=3))[-1], Finished)
    assert eventually(lambda: "alice" in secure.log())


@pytest.mark.parametrize("token", [None, "wrong", ALICE[:-1]])
def test_no_token_and_a_wrong_one_are_refused_in_the_same_words(secure, token):
    with secure.client(token) as client:
        for call in (client.model, lambda: list(client.generate("def "))):
            with pytest.raises(AccessDenied) as raised:
                call()
            assert raised.value.code is grpc.StatusCode.UNAUTHENTICATED
            assert raised.value.reason == "TOKEN_INVALID"
            assert "a valid token is needed" in raised.value.message


def test_reflection_needs_a_token_and_health_none(secure):
    credentials = tls(secure.folder / "ca.pem")
    with grpc.secure_channel(secure.address, credentials) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            ProtoReflectionDescriptorDatabase(channel).get_services()
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_caller_may_call_only_the_services_of_its_table(secure):
    with secure.client(BOB) as client:
        assert client.model().name == "embedded"
        with pytest.raises(AccessDenied, match="bob may not call") as raised:
            list(client.generate("def "))
    assert raised.value.code is grpc.StatusCode.PERMISSION_DENIED
    assert raised.value.reason == "METHOD_DENIED"
    assert raised.value.metadata == {"method": "/thermostat.v1.GenerationService/Generate"}
    assert eventually(lambda: "code=PERMISSION_DENIED" in secure.log() and "caller=bob" in secure.log())


def test_a_caller_with_its_generations_running_and_waiting_is_refused_with_a_time(secure):
    with secure.client() as client:
        first = client.generate("def ", max_output_tokens=1500, ignore_eos=True)
        next(first)
        waits = client.generate("def ", max_output_tokens=3, ignore_eos=True)
        time.sleep(0.3)
        begin = time.monotonic()
        with pytest.raises(Overloaded) as raised:
            list(client.generate("def "))
        assert time.monotonic() - begin < 1
        assert (raised.value.reason, raised.value.retry_after) == ("CALLER_LIMIT", 1.0)
        first.cancel()
        assert isinstance(list(waits)[-1], Finished)
        # One that is cancelled while it waits, or before it was read, leaves no place taken.
        for _ in range(20):
            client.generate("def ", max_output_tokens=1500).cancel()
        assert eventually(lambda: served(client))


def served(client: Client) -> bool:
    try:
        return isinstance(list(client.generate("def ", max_output_tokens=2, ignore_eos=True))[-1], Finished)
    except Overloaded:
        return False


def test_plain_text_finds_no_server_behind_tls(secure):
    with Client(secure.address, token=ALICE) as client, pytest.raises(Unavailable):
        client.model(timeout=10)


def test_a_new_certificate_is_taken_without_a_restart_and_a_bad_one_is_not(secure):
    folder = secure.folder
    with secure.client() as client:
        stream = client.generate("def ", max_output_tokens=1500, ignore_eos=True)
        next(stream)
        before = secure.served()
        write(secure.authority.issue_cert("127.0.0.1"), folder, "server")
        assert eventually(lambda: secure.served() != before)
        taken = secure.served()
        for bad in (b"not a certificate", secure.authority.issue_cert("127.0.0.1").cert_chain_pems[0].bytes()):
            complaints = secure.log().count("the new certificate cannot be used, the old stays in force")
            (folder / "server.pem").write_bytes(bad)  # no certificate; and one that the key does not fit
            secure.running.send_signal(signal.SIGHUP)  # at once, without waiting for the next look
            assert eventually(lambda n=complaints: secure.log().count("the old stays in force") > n)
            assert secure.served() == taken
        write(secure.authority.issue_cert("127.0.0.1"), folder, "server")
        assert eventually(lambda: secure.served() not in (before, taken))
        assert isinstance(list(stream)[-1], Finished)  # what was open before has seen nothing of it


def test_new_tokens_are_taken_without_a_restart_and_bad_ones_are_not(secure):
    path = secure.folder / "tokens.toml"
    other = "carol's token, long enough"

    def lets_in(token: str) -> bool:
        try:
            with secure.client(token) as client:
                return bool(client.model().name)
        except AccessDenied:
            return False

    path.write_text(TOKENS + f'[carol]\ntoken = "{other}"\n')
    assert eventually(lambda: lets_in(other))
    path.write_text("[dave]\ntoken = 3")
    assert eventually(lambda: "the new tokens cannot be used" in secure.log())
    assert lets_in(other) and lets_in(ALICE)
    path.write_text(TOKENS)
    assert eventually(lambda: not lets_in(other))
    assert lets_in(ALICE)


def test_a_unix_socket_beside_tls_answers_a_probe_in_plain_text_and_asks_others_for_tokens_too(secure):
    where = f"unix:{secure.folder / 'socket'}"
    assert CliRunner().invoke(main, ["--server", where, "health"]).output == "serving\n"
    with Client(where, token=ALICE) as client:
        assert client.model().name == "embedded"
    with Client(where) as client, pytest.raises(AccessDenied):
        client.model()


def test_the_command_talks_tls_with_a_token(secure):
    flags = ["--server", secure.address, "--tls-ca", str(secure.folder / "ca.pem")]
    runner = CliRunner(env={"THERMOSTAT_TOKEN": ALICE})
    assert "embedded" in runner.invoke(main, [*flags, "model"]).output
    refused = runner.invoke(main, [*flags, "--token", "wrong", "model"])
    assert refused.exit_code == 1 and "a valid token is needed" in refused.output


def test_no_prompt_and_no_token_is_ever_logged(secure):
    with secure.client() as client:
        list(client.generate(f"{CANARY} = ", max_output_tokens=3))
        list(client.generate([{"role": "user", "content": CANARY}], max_output_tokens=3))
        client.count_tokens(CANARY)
        with pytest.raises(InvalidRequest):
            list(client.generate(CANARY, top_p=2.0, stop_sequences=[CANARY * 100]))
        with pytest.raises(InvalidRequest):
            list(client.generate(CANARY * 100_000))
        with pytest.raises(ThermostatError):
            list(client.generate(CANARY, model="another"))
        stream = client.generate(CANARY, max_output_tokens=500)
        next(stream)
        stream.cancel()
    log = secure.log()  # at level debug
    assert CANARY not in log
    assert ALICE not in log and BOB not in log


def test_mutual_tls_serves_those_with_a_certificate_and_no_others(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    write(authority.issue_cert("127.0.0.1"), tmp_path, "server")
    write(authority.issue_cert("erin.example", common_name="erin"), tmp_path, "client")
    write(trustme.CA().issue_cert("erin.example", common_name="erin"), tmp_path, "stranger")
    arguments = ["--tls-cert", tmp_path / "server.pem", "--tls-key", tmp_path / "server.key"]
    arguments += ["--tls-client-ca", tmp_path / "ca.pem"]
    with process(*map(str, arguments), log=tmp_path / "log") as (_, address):

        def asks(name: str | None) -> str:
            files = (tmp_path / f"{name}.pem", tmp_path / f"{name}.key") if name else ()
            with Client(address, credentials=tls(tmp_path / "ca.pem", *files)) as client:
                list(client.generate("def ", max_output_tokens=2, timeout=20))
                return client.model(timeout=10).name

        assert asks("client") == "embedded"
        for name in (None, "stranger"):
            with pytest.raises(Unavailable):
                asks(name)
        assert eventually(lambda: "erin" in (tmp_path / "log").read_text())  # the certificate's name, in the log


def test_a_unix_socket_serves_its_owner(tmp_path):
    path = tmp_path / "thermostat.sock"
    with process("--uds", str(path), "--no-tcp", "--log-level", "warning") as (_, address):
        assert address == f"unix:{path}"
        assert not path.stat().st_mode & 0o022  # to connect is to write
        with Client(address) as client:
            assert isinstance(list(client.generate("def ", max_output_tokens=2))[-1], Finished)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--host", "0.0.0.0"], r"--host 0\.0\.0\.0 lets others connect: give --tls-cert .* --insecure"),
        (["--host", "::"], "lets others connect"),
        (["--tls-cert", "{file}"], "--tls-cert and --tls-key belong together"),
        (["--tls-client-ca", "{file}"], "--tls-client-ca needs --tls-cert"),
        (["--no-tcp"], "--no-tcp needs --uds"),
        (["--tls-cert", "{file}", "--tls-key", "{file}"], "the certificate cannot be used"),
        (["--tokens", "{file}"], r"the tokens cannot be used: .*names no caller"),
    ],
)
def test_a_server_that_would_be_open_or_shut_by_mistake_does_not_start(tmp_path, arguments, told):
    file = tmp_path / "empty.pem"
    file.touch()
    arguments = [argument.format(file=file) for argument in arguments]
    command = [sys.executable, "-m", "server", "--port", "0", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert ended.returncode in (1, 2)
    assert re.search(told, ended.stderr) and "Traceback" not in ended.stderr


def test_a_message_above_the_limit_is_refused_and_the_next_one_is_served(tmp_path):
    with (
        process("--max-message-bytes", "2000", "--no-reflection", "--log-level", "error") as (_, address),
        Client(address) as client,
    ):
        with pytest.raises(Overloaded, match="larger than max"):
            list(client.generate("x" * 3000))
        with (
            Client(address, metadata=[("x-much", "x" * 100_000)]) as other,
            pytest.raises(Overloaded, match="metadata"),
        ):
            other.model()
        assert client.count_tokens("x" * 300).token_count
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as raised:
            ProtoReflectionDescriptorDatabase(channel).get_services()
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
