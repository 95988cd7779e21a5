"""What an operator counts on: limits, fairness, the end of a server that is ill."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.whole.conftest import process
from tests.whole.runs import PROMPT, run
from thermostat import Client, DeadlineExceeded, Finished, Overloaded, Unavailable

ENDLESS = {"max_output_tokens": 1900, "ignore_eos": True}


def statuses(address):
    """The health that a watcher is told, as it changes."""
    with grpc.insecure_channel(address) as channel:
        for answer in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=300):
            yield health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def test_the_servers_own_time_limit_ends_a_generation():
    with process("--max-duration", "0.5", "--log-level", "error") as (_, address), Client(address) as client:
        with pytest.raises(DeadlineExceeded) as raised:
            run(client.generate(PROMPT, **ENDLESS))
        assert raised.value.reason == "SERVER_TIME_LIMIT"
        assert run(client.generate(PROMPT, max_output_tokens=3, ignore_eos=True))


def test_a_client_has_its_own_limit():
    with process("--max-per-client", "2", "--log-level", "error") as (_, address), Client(address) as client:
        streams = [client.generate(PROMPT, **ENDLESS) for _ in range(2)]
        for stream in streams:
            next(stream)
        with pytest.raises(Overloaded) as raised:
            run(client.generate(PROMPT))
        assert raised.value.retry_after == 1.0
        for stream in streams:
            stream.cancel()


def test_overload_answers_at_once_while_everything_is_busy():
    """The median of 20 refusals takes less than 50 ms; a refusal does no work first."""
    arguments = ("--max-rows", "4", "--max-queue", "0", "--log-level", "error")
    with process(*arguments) as (_, address), Client(address) as client:
        streams = [client.generate(PROMPT, **ENDLESS) for _ in range(4)]
        for stream in streams:
            next(stream)
        waits = []
        for _ in range(20):
            began = time.monotonic()
            with pytest.raises(Overloaded):
                run(client.generate("def " * 500))
            waits.append(time.monotonic() - began)
        assert sorted(waits)[10] < 0.05
        for stream in streams:
            stream.cancel()


def test_five_hundred_streams_end_well_or_are_refused_and_health_answers_throughout(capfd):
    """Twice, so that what the first crowd leaves behind would show: memory returns to within 5 %."""
    with process("--log-level", "error") as (running, address):

        def ask(client, i):
            try:
                return run(client.generate(PROMPT, seed=i, max_output_tokens=20, ignore_eos=True))[
                    2
                ].usage.output_tokens
            except Overloaded:
                return 0

        def crowd():
            clients = [Client(address) for _ in range(10)]
            with ThreadPoolExecutor(500) as pool, grpc.insecure_channel(address) as channel:
                answers = [pool.submit(ask, clients[i % 10], i) for i in range(500)]
                stub = health_pb2_grpc.HealthStub(channel)
                while not all(answer.done() for answer in answers):
                    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status == 1
                    time.sleep(0.2)
            for client in clients:
                client.close()
            return [answer.result() for answer in answers]

        def resident():
            with open(f"/proc/{running.pid}/statm") as file:
                return int(file.read().split()[1])

        crowd()
        before = resident()
        counts = crowd()
        assert set(counts) == {0, 20}
        assert counts.count(20) >= 320
        time.sleep(1)
        assert resident() < 1.05 * before


def test_a_step_that_hangs_ends_every_stream_and_the_process_for_its_supervisor(tmp_path):
    """The hang is real: a module loaded at start makes the model sleep in its 20th step."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, threading, time\n"
        "def hang():\n"
        "    from server.engine.model import Model\n"
        "    forward, steps = Model.forward, [0]\n"
        "    def slow(self, *arguments):\n"
        "        steps[0] += os.path.exists(os.environ['HANG'])\n"
        "        if steps[0] > 20:\n"
        "            time.sleep(1000)\n"
        "        return forward(self, *arguments)\n"
        "    Model.forward = slow\n"
        "def wait():\n"
        "    import sys\n"
        "    while not hasattr(sys.modules.get('server.app'), 'serve'):\n"  # all of it is imported
        "        time.sleep(0.01)\n"
        "    hang()\n"
        "threading.Thread(target=wait, daemon=True).start()\n"
    )
    mark = tmp_path / "now"
    variables = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", "HANG": str(mark)}
    arguments = ("--step-timeout", "2", "--log-level", "error")
    with process(*arguments, **variables) as (running, address), Client(address, resume_seconds=0) as client:
        health = statuses(address)
        assert next(health) == "SERVING"
        streams = [client.generate(PROMPT, **ENDLESS) for _ in range(4)]
        for stream in streams:
            next(stream)
        mark.touch()
        for stream in streams:
            with pytest.raises(Unavailable):
                list(stream)
        assert next(health) == "NOT_SERVING"
        assert running.wait(20) == 1


def test_sigkill_of_a_client_frees_its_rows():
    import subprocess
    import sys

    with (
        process("--max-rows", "1", "--max-queue", "0", "--log-level", "error") as (_, address),
        Client(address) as client,
    ):
        code = (
            "import sys\nfrom thermostat import Client\n"
            f"stream = Client({address!r}).generate('def ', max_output_tokens=1900, ignore_eos=True)\n"
            "next(stream)\nprint('running', flush=True)\nlist(stream)\n"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout.readline() == "running\n"
            with pytest.raises(Overloaded):
                run(client.generate(PROMPT, max_output_tokens=1))
            other.send_signal(signal.SIGKILL)
        end = time.monotonic() + 5
        while True:
            try:
                assert isinstance(run(client.generate(PROMPT, max_output_tokens=3, ignore_eos=True))[2], Finished)
                break
            except Overloaded:
                assert time.monotonic() < end
                time.sleep(0.05)
