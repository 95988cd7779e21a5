"""A hundred thousand requests that no honest client sends; an honest stream beside them never notices.

THERMOSTAT_FUZZ says how many requests are sent; `make fuzz` sends 100,000, the ordinary run a small share. The counts
by status are printed (pytest -s).
"""

import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, given, settings

from tests.whole import hostile
from tests.whole.conftest import process
from tests.whole.runs import PROMPT, bits, run
from thermostat import Client, EntropyFeedback
from thermostat.v1.generation_pb2 import GenerateRequest

HOW_MANY = int(os.environ.get("THERMOSTAT_FUZZ", "2000"))
AT_ONCE = 20
FIELDS = max(1, HOW_MANY // 4 // AT_ONCE)
BYTES = max(1, HOW_MANY * 3 // 4 // AT_ONCE)


class Target:
    """A server, an honest stream beside all that is sent to it, and what came back."""

    def __init__(self, address: str) -> None:
        self.counts: Counter[str] = Counter()
        self.disturbed: list[str] = []
        self.rounds = 0
        self._client, self.channel = Client(address, resume_seconds=0), grpc.insecure_channel(address)
        self._alone = control(self._client)
        self._done = threading.Event()
        self._beside = threading.Thread(target=self._keep_asking)
        self._beside.start()
        self._pool = ThreadPoolExecutor(AT_ONCE)

    def send(self, requests: list[tuple[str, bytes]]) -> None:
        """All at once; fails on one that is answered as no request may be."""
        answers = self._pool.map(lambda request: hostile.ask(self.channel, *request), requests)
        for request, (code, told) in zip(requests, answers, strict=True):
            self.counts[code] += 1
            assert code in hostile.FINE, f"{code} ({told}) for {request}"
        assert not self.disturbed
        health = health_pb2_grpc.HealthStub(self.channel)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == 1

    def close(self) -> None:
        self._done.set()
        self._beside.join()
        self._pool.shutdown()
        self.channel.close()
        self._client.close()

    def _keep_asking(self) -> None:
        while not self._done.is_set():
            try:
                if control(self._client) != self._alone:
                    self.disturbed.append("other tokens than alone")
            except Exception as error:
                self.disturbed.append(repr(error))
            self.rounds += 1


def control(client: Client) -> list[bytes]:
    """An honest stream, whose tokens hang on every one before them."""
    return bits(
        run(client.generate(PROMPT, policy=EntropyFeedback(), seed=3, ignore_eos=True, max_output_tokens=60))[1]
    )


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with process("--max-rows", "16", "--log-level", "error") as (running, address):
        made = Target(address)
        yield made
        made.close()
        assert running.poll() is None
        assert not made.disturbed and made.rounds
        print(f"\n{sum(made.counts.values())} requests beside {made.rounds} honest ones: {dict(made.counts)}")


def asking(**fields: Any) -> bytes:
    return json_format.ParseDict({"text": "def ", "seed": "7", **fields}, GenerateRequest()).SerializeToString()


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (b"\x12\x01\xff", "INVALID_ARGUMENT"),  # text that is no UTF-8: was UNKNOWN
        (b"\x0a\xff\xff", "INVALID_ARGUMENT"),  # cut short: was UNKNOWN
        (b"\x2a\x80\x08" + b"\x62\x7e" * 512, "INVALID_ARGUMENT"),  # nests too deep: was UNKNOWN
        (asking(constraint={"json_schema": "[" * 60_000}), "INVALID_ARGUMENT"),  # and so here: was INTERNAL
        (asking(constraint={"regex": "a+"}, resume={"token_ids": [-1]}), "INVALID_ARGUMENT"),  # was INTERNAL
        (asking(constraint={"regex": r"[^\x00-\x{10FFFF}]"}), "INVALID_ARGUMENT"),  # allows nothing: ended well, empty
        (asking(constraint={"grammar": 'start: x\nx: "a"{100000}'}), "INVALID_ARGUMENT"),  # was INTERNAL
        (asking(constraint={"regex": "a{1000}{1000}{1000}"}), "INVALID_ARGUMENT"),  # was INTERNAL
        (asking(policy={"fixed": {"temperature": 5e-324}}), "LEFT"),  # 0 in float32: was INTERNAL
        (asking(policy={"mirostat": {"tau": 1.7e308, "eta": 1.7e308}}), "LEFT"),  # mu was infinite: INTERNAL from Score
        (asking(policy={"entropy_feedback": {"half_life": 1e300}}), "LEFT"),  # the mean forgot nothing: was INTERNAL
        (asking(policy={"entropy_feedback": {"setpoint": 1.7e308, "kp": 0, "ki": 0}}), "LEFT"),
        (asking(penalties={"repetition": 1e-300}), "LEFT"),  # was INTERNAL
        (asking(penalties={"repetition": 1e300}), "LEFT"),
    ],
)
def test_what_was_found_before_stays_mended(target, request_bytes, code):
    told = hostile.ask(target.channel, hostile.METHODS[GenerateRequest], request_bytes)
    assert told[0] == code, told


@settings(
    max_examples=FIELDS,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(hostile.batches(AT_ONCE))
def test_hostile_fields_are_served_or_refused(target, batch):
    target.send([(hostile.METHODS[type(request)], request.SerializeToString()) for request in batch])


def test_damaged_bytes_are_served_or_refused(target):
    chance = random.Random(0)
    for _ in range(BYTES):
        target.send([hostile.mutated(chance) for _ in range(AT_ONCE)])
