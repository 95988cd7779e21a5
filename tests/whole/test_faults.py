"""Sixteen streams run while something breaks: none of them loses a token, and all is well again in the time stated.

What is broken here is real: processes are killed, sockets reset and held, files and clocks moved. Only the engine's own
faults are put into it by `inject/sitecustomize.py`. Each time is the most that may pass; it is printed (pytest -s).
"""

import resource
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import libfaketime
import pytest
import trustme

from tests.whole.conftest import process
from tests.whole.faulty import TOO_MUCH, Supervised, injected, no_more_descriptors, seconds_until
from tests.whole.proxy import Proxy
from tests.whole.runs import POLICIES, PROMPT, bits, run
from tests.whole.test_access import Secure, write
from tests.whole.test_slow_readers import SMALL_WINDOW
from thermostat import Client, DeadlineExceeded, Output, Unavailable, tls
from thermostat.errors import ThermostatError

STREAMS = 16
LENGTH = 60
KINDS = list(POLICIES)
_ONE_BY_ONE = "a step failed; its rows are now computed one by one"
LARGE = {"policy": POLICIES["entropy_feedback"], "seed": 9, "ignore_eos": True, "candidates": 20}
ENDLESS = {"max_output_tokens": 1900, "ignore_eos": True}


def asked(number: int, length: int) -> dict:
    return {
        "policy": POLICIES[KINDS[number % len(KINDS)]],
        "seed": number,
        "ignore_eos": True,
        "max_output_tokens": length,
        "top_p": 0.95,
    }


class Crowd:
    """Streams of several threads, each begun again as it ends until the block ends, or run once.

    Leaving the block waits for them; it fails if one of them was told an error or had other tokens than it has alone.
    """

    def __init__(self, client: Client, alone: list[list[bytes]], *, streams: int = STREAMS, once: bool = False) -> None:
        self._client, self._alone, self._once = client, alone, once
        self._done = threading.Event()
        self._begun = threading.Barrier(streams + 1)
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(streams)]
        self.ended = 0
        self.harm: list[str] = []

    def __enter__(self) -> "Crowd":
        for thread in self._threads:
            thread.start()
        self._begun.wait(60)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(120)
        if kind is None:
            assert not any(thread.is_alive() for thread in self._threads), "a stream hangs"
            assert not self.harm
            assert self.ended >= len(self._threads)

    def _run(self, number: int) -> None:
        first = True
        while first or not (self._done.is_set() or self._once):
            try:
                self._stream(number, first)
            except Exception as error:
                self.harm.append(f"stream {number}: {error!r}")
                return
            first = False

    def _stream(self, number: int, first: bool) -> None:
        drawn = []
        for event in self._client.generate(PROMPT, **asked(number, len(self._alone[number]))):
            if first and not drawn and isinstance(event, Output):
                self._begun.wait(60)
            drawn += event.tokens if isinstance(event, Output) else []
        assert bits(drawn) == self._alone[number], "other tokens than alone"
        self.ended += 1


@dataclass
class Steady(Secure):
    """A server with TLS, a log and metrics, in whose engine a step can be made to raise."""

    metrics: str = ""

    def client(self, address: str = "", **options) -> Client:
        return Client(address or self.address, credentials=tls(self.folder / "ca.pem"), **options)

    def rid_of_long_ones(self, most: float) -> float:
        """Seconds until all generations have no more memory than the sixteen can need: a long one needs as much."""
        return seconds_until(lambda: self._kv_tokens() <= STREAMS * (LENGTH + 20), most)

    def _kv_tokens(self) -> int:
        with urllib.request.urlopen(self.metrics, timeout=10) as page:
            lines = page.read().decode().splitlines()
        return next(int(float(line.split()[1])) for line in lines if line.startswith("thermostat_kv_cache_tokens "))


def told(what: str, seconds: float) -> None:
    print(f"\n{what}: well after {seconds:.2f} s", end=" ")


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Steady]:
    folder = tmp_path_factory.mktemp("steady")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    write(authority.issue_cert("127.0.0.1"), folder, "server")
    arguments = ["--tls-cert", folder / "server.pem", "--tls-key", folder / "server.key", "--metrics-port", "0"]
    arguments += ["--max-rows", "24", "--stall-timeout", "2"]
    with process(*map(str, arguments), log=folder / "log", **injected(folder)) as (running, address):
        metrics = running.stdout.readline().removeprefix("metrics on ").strip()
        yield Steady(address, folder, authority, running, metrics)


@pytest.fixture(scope="module")
def alone(steady: Steady) -> list[list[bytes]]:
    """What each of the sixteen gets alone. Every server here gives the same."""
    with steady.client() as client:
        return [bits(run(client.generate(PROMPT, **asked(number, LENGTH)))[1]) for number in range(STREAMS)]


def test_a_client_killed_with_9_harms_nobody_and_its_rows_are_free_at_once(steady, alone):
    code = (
        "import sys\nfrom thermostat import Client, tls\n"
        f"client = Client({steady.address!r}, credentials=tls({str(steady.folder / 'ca.pem')!r}))\n"
        f"streams = [client.generate('def ', **{ENDLESS!r}) for _ in range(4)]\n"
        "for stream in streams:\n    next(stream)\nprint('running', flush=True)\nlist(streams[0])\n"
    )
    with (
        steady.client() as client,
        Crowd(client, alone),
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as victim,
    ):
        assert victim.stdout.readline() == "running\n"
        victim.kill()
        told("client killed", steady.rid_of_long_ones(5))


def test_connections_cut_are_taken_up_again_without_a_token_lost(steady, alone):
    """Three times, under eight streams that come by way of the proxy, beside sixteen that do not."""
    with (
        Proxy(steady.address) as proxy,
        steady.client() as client,
        steady.client(proxy.address) as cut,
        Crowd(client, alone),
        Crowd(cut, alone, streams=8) as others,
    ):
        for _ in range(3):
            time.sleep(0.7)
            before = others.ended
            proxy.cut()
            waited = seconds_until(lambda n=before: others.ended > n, 20)
        told("connection cut, next stream ended", waited)


def test_half_open_clients_lose_their_rows_and_no_other_does(steady, alone):
    """A client that is there no longer, and did not say so. One that sends nothing at all is found out by keepalive."""
    with (
        Proxy(steady.address) as proxy,
        steady.client() as client,
        steady.client(proxy.address, options=SMALL_WINDOW) as half_open,
        Crowd(client, alone),
    ):
        streams = [half_open.generate(PROMPT, **LARGE, max_output_tokens=1800) for _ in range(4)]
        for stream in streams:
            next(stream)
        proxy.stall()
        told("half-open client", steady.rid_of_long_ones(60))
        proxy.flow()
        for stream in streams:
            with pytest.raises(ThermostatError) as raised:
                list(stream)
            assert raised.value.code is grpc.StatusCode.ABORTED


def test_a_slow_client_gets_all_its_tokens_and_slows_nobody(steady, alone):
    with steady.client() as client, steady.client(options=SMALL_WINDOW) as slow:
        whole = bits(run(slow.generate(PROMPT, **LARGE, max_output_tokens=300))[1])
        with Crowd(client, alone):
            drawn = []
            for event in slow.generate(PROMPT, **LARGE, max_output_tokens=300):
                drawn += event.tokens if isinstance(event, Output) else []
                if len(drawn) == 20:
                    time.sleep(1.5)
    assert bits(drawn) == whole


def test_a_step_that_raises_is_done_again_and_nobody_sees_it(steady, alone):
    with steady.client() as client, Crowd(client, alone):
        for count in range(1, 4):
            (steady.folder / "a step raises").touch()
            told("step raised", seconds_until(lambda n=count: steady.log().count(_ONE_BY_ONE) == n, 20))
            time.sleep(1)


def test_a_prompt_that_memory_does_not_suffice_for_fails_alone(steady, alone):
    with steady.client() as client, Crowd(client, alone) as crowd:
        before = crowd.ended
        for length in (1, 300):  # drawn from at once, and after several steps of prompt
            with pytest.raises(ThermostatError) as failed:
                run(client.generate([*range(1, length), TOO_MUCH], max_output_tokens=3))
            assert failed.value.code is grpc.StatusCode.INTERNAL
        seconds_until(lambda: crowd.ended >= before + STREAMS, 60)


def test_a_certificate_is_swapped_under_running_streams(steady, alone):
    with steady.client() as client, Crowd(client, alone):
        before = steady.served()
        write(steady.authority.issue_cert("127.0.0.1"), steady.folder, "server")
        told("certificate swapped", seconds_until(lambda: steady.served() != before, 5))


def test_a_full_disk_costs_lines_of_the_log_and_nothing_else(steady, alone):
    """The limit on the size of files does it: a write fails as it does on a full disk, for this process alone."""
    log = steady.folder / "log"
    unlimited = resource.prlimit(steady.running.pid, resource.RLIMIT_FSIZE)
    with steady.client() as client, Crowd(client, alone) as crowd:
        resource.prlimit(steady.running.pid, resource.RLIMIT_FSIZE, (log.stat().st_size, unlimited[1]))
        full = log.stat().st_size
        ended = crowd.ended
        seconds_until(lambda: crowd.ended >= ended + STREAMS, 60)
        assert log.stat().st_size == full
        resource.prlimit(steady.running.pid, resource.RLIMIT_FSIZE, unlimited)
        told("disk no longer full", seconds_until(lambda: log.stat().st_size > full, 20))


def test_without_descriptors_running_streams_go_on_and_new_clients_get_in_as_soon_as_there_are_some(steady, alone):
    pid = steady.running.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    with steady.client() as client, Crowd(client, alone) as crowd:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (no_more_descriptors(pid), before[1]))
        ended = crowd.ended
        with steady.client() as late, pytest.raises((Unavailable, DeadlineExceeded)):
            late.model(timeout=3)
        seconds_until(lambda: crowd.ended >= ended + STREAMS, 60)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        began = time.monotonic()
        with steady.client() as late:
            late.wait_ready(20)
        told("descriptors there again", time.monotonic() - began)
    assert steady.running.poll() is None


def test_the_wall_clock_may_jump(alone, tmp_path):
    """By a day, forwards and back: no deadline, no time limit, no stall is taken to have passed. libfaketime puts it
    into every call of the process to the system's clock; a test may not set the machine's own."""
    now = tmp_path / "now"
    now.write_text("+0")
    library = Path(libfaketime.__file__).parent / "vendor/libfaketime/src/libfaketime.so.1"
    fake = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(now),
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_CACHE_DURATION": "1",
    }
    arguments = ("--max-rows", "24", "--stall-timeout", "5", "--step-timeout", "20", "--max-duration", "100")
    with process(*arguments, log=tmp_path / "log", **fake) as (_, address), Client(address) as client:
        with Crowd(client, alone) as crowd:
            for jump in ("+0", "+1d", "-1d"):
                now.write_text(jump)
                time.sleep(1.2)  # libfaketime looks once a second
                ended = crowd.ended
                seconds_until(lambda n=ended: crowd.ended >= n + STREAMS, 60)
                assert run(client.generate(PROMPT, max_output_tokens=3, ignore_eos=True, time_limit=30, timeout=30))
        days = {line[:10] for line in (tmp_path / "log").read_text().splitlines() if " request " in line}
    assert len(days) >= 3, "the server's clock did not jump"


@pytest.fixture(scope="module")
def supervised(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    folder = tmp_path_factory.mktemp("supervised")
    with Supervised(folder, "--max-rows", "24", "--step-timeout", "3", "--log-level", "error") as server:
        yield server


@pytest.mark.parametrize(("death", "status"), [("killed", -9), ("the engine raises", 1), ("a step hangs", 1)])
def test_a_server_that_dies_and_comes_back_is_seen_as_a_pause(supervised, death, status, alone):
    """All sixteen go on where they were, on another process, with the tokens that they would have had."""
    before, ended = supervised.running.pid, len(supervised.endings)
    with Client(supervised.address, resume_seconds=90) as client:
        client.wait_ready(60)
        with Crowd(client, alone, once=True):
            supervised.fail(death)
            began = time.monotonic()
            seconds_until(lambda: len(supervised.endings) > ended, 20)
            client.wait_ready(60)
            waited = time.monotonic() - began
    assert supervised.endings[-1] == status
    assert supervised.running.pid != before
    told(f"{death}, served again", waited)
