"""A reader that is too slow stalls only itself, loses no token, and one that reads nothing is given up."""

import time

import grpc
import pytest

from tests.whole.conftest import process
from tests.whole.runs import PROMPT, bits, run
from thermostat import Client, EntropyFeedback, Output
from thermostat.errors import ThermostatError

LONG = {"policy": EntropyFeedback(), "seed": 9, "ignore_eos": True, "max_output_tokens": 900, "candidates": 20}
"""About 600 KB."""
SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 16)]
"""So that gRPC does not take a megabyte for a client that reads nothing."""


@pytest.fixture(scope="module")
def narrow():
    """A server with two rows that gives readers two seconds."""
    with process("--max-rows", "2", "--stall-timeout", "2", "--log-level", "warning") as (_, address):
        yield address


def test_a_slow_reader_gets_every_token_as_a_fast_one_would(narrow):
    """It falls behind so far that its generation pauses, twice; a pause changes no bit."""
    with Client(narrow, options=SMALL_WINDOW) as client:
        _, fast, _, _ = run(client.generate(PROMPT, **LONG))
        slow = []
        for event in client.generate(PROMPT, **LONG):
            if isinstance(event, Output):
                slow += event.tokens
                if len(slow) in (50, 500):
                    time.sleep(1.5)
        assert bits(slow) == bits(fast)


def test_readers_that_read_nothing_hold_nobody_up_and_are_given_up(narrow):
    """As many as there are rows; their rows are free for others while they stand still."""
    with Client(narrow, options=SMALL_WINDOW) as client:
        stuck = [client.generate(PROMPT, **LONG) for _ in range(2)]
        for stream in stuck:
            next(stream)
        began = time.monotonic()
        _, drawn, _, _ = run(client.generate(PROMPT, max_output_tokens=50, ignore_eos=True))
        assert len(drawn) == 50
        time.sleep(max(0.0, began + 8 - time.monotonic()))
        for stream in stuck:
            with pytest.raises(ThermostatError) as raised:
                list(stream)
            assert raised.value.code is grpc.StatusCode.ABORTED
            assert raised.value.reason == "READER_STALLED"
        assert len(run(client.generate(PROMPT, max_output_tokens=5, ignore_eos=True))[1]) == 5
