"""Many streams at once over a real socket, a third of them cancelled midway; and a server's orderly end."""

import asyncio
import os
import random
import signal
import time

import pytest

from tests.whole.conftest import process
from thermostat import (
    AsyncClient,
    Client,
    Edt,
    EntropyBand,
    Finished,
    Fixed,
    Greedy,
    Output,
    Overloaded,
    TargetEntropy,
    Unavailable,
)

POLICIES = [Fixed(0.8), Greedy(), EntropyBand(), Edt(), TargetEntropy(1.5)]


def resident(pid):
    """Resident memory of a process in MiB."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def one(client, number):
    """A stream; every third is left after a few tokens. (whether it was left, its last event, its tokens)."""
    chance = random.Random(number)
    leaves = number % 3 == 0
    events = client.generate(
        "import os\n" * chance.randrange(1, 60),
        policy=POLICIES[number % 5],
        top_p=0.9,
        seed=number,
        max_output_tokens=400 if leaves else chance.randrange(5, 40),
        ignore_eos=True,
    )
    drawn, event = 0, None
    async with events:
        async for event in events:
            drawn += len(event.tokens) if isinstance(event, Output) else 0
            if leaves and drawn >= 3:
                break
    return leaves, event, drawn


async def crowd(address):
    async with AsyncClient(address) as client:
        return await asyncio.gather(*(one(client, number) for number in range(64)))


def test_64_mixed_streams_a_third_cancelled():
    with process("--max-rows", "16", "--log-level", "warning") as (running, address):
        asyncio.run(crowd(address))  # the first crowd brings every buffer to its size
        before = resident(running.pid)
        for _ in range(3):
            outcomes = asyncio.run(crowd(address))
            assert len(outcomes) == 64
            for leaves, last, drawn in outcomes:
                assert leaves or isinstance(last, Finished)
                assert leaves or drawn == last.usage.output_tokens
        assert resident(running.pid) < before * 1.05 + 5
        # No row is left behind: sixteen streams that fill every row start at once and end.
        begin = time.monotonic()
        asyncio.run(full_house(address))
        assert time.monotonic() - begin < 30


async def full_house(address):
    async with AsyncClient(address) as client:
        texts = await asyncio.gather(*(client.text("def ", max_output_tokens=5) for _ in range(16)))
        assert len(texts) == 16


def test_a_full_queue_is_told_with_a_time_to_come_back():
    with (
        process("--max-rows", "1", "--max-queue", "1", "--log-level", "error") as (_, address),
        Client(address) as client,
    ):
        streams = [client.generate("def ", max_output_tokens=1500, ignore_eos=True)]
        next(streams[0])  # it has the row; only then may the second come, or it could take it first
        streams.append(client.generate("def ", max_output_tokens=1500, ignore_eos=True))
        time.sleep(0.3)
        with pytest.raises(Overloaded) as raised:
            list(client.generate("def ", max_output_tokens=5))
        assert raised.value.retry_after > 0
        client.wait_ready(5)  # health answers all the while
        for stream in streams:
            stream.cancel()


def test_leaving_the_loop_frees_the_row_at_once():
    with (
        process("--max-rows", "1", "--max-queue", "0", "--log-level", "error") as (_, address),
        Client(address) as client,
    ):
        for _ in client.generate("def ", max_output_tokens=2000, ignore_eos=True):
            break
        end = time.monotonic() + 2
        while True:
            try:
                assert len(client.text("def ", max_output_tokens=3, ignore_eos=True)) >= 0
                return
            except Overloaded:
                assert time.monotonic() < end, "the row is still taken"


def test_sigterm_lets_running_streams_finish_and_a_second_is_quick():
    # A grace that a busy machine keeps within, too. No resuming: that would hide why a stream broke.
    with (
        process("--grace", "120", "--log-level", "error") as (running, address),
        Client(address, resume_seconds=0) as client,
    ):
        stream = client.generate("def ", max_output_tokens=800, ignore_eos=True)
        next(stream)
        running.send_signal(signal.SIGTERM)
        time.sleep(1.0)
        with pytest.raises(Unavailable):
            list(client.generate("def ", max_output_tokens=5, timeout=5))
        assert isinstance(list(stream)[-1], Finished)
        assert running.wait(30) == 0
    with process("--log-level", "error") as (running, address), Client(address) as client:
        stream = client.generate("def ", max_output_tokens=2000, ignore_eos=True)
        next(stream)
        running.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert running.poll() is None
        running.send_signal(signal.SIGTERM)
        assert running.wait(5) == 0


def test_a_model_that_cannot_be_served_ends_the_command_with_a_sentence(tmp_path):
    import subprocess
    import sys

    ended = subprocess.run(
        [sys.executable, "-m", "server", "--model", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "Error: " in ended.stderr
