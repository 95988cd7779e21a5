"""A hundred thousand requests that no honest client sends; an honest stream beside them never notices.

THERMOSTAT_FUZZ says how many requests are sent; `make fuzz` sends 100,000, the ordinary run a small share. The counts by
status are printed (pytest -s).
"""

import asyncio
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, given, settings

from tests.whole import hostile
from tests.whole.conftest import process
from tests.whole.runs import PROMPT, bits, run
from thermostat import Client, EntropyFeedback

HOW_MANY = int(os.environ.get("THERMOSTAT_FUZZ", "3000"))
AT_ONCE = 20
SECONDS = 60
"""More than any request needs; one that takes longer hangs."""
READ = 3
"""Messages of a stream that are read before it is left."""
FINE = {"OK", "LEFT", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}


@dataclass
class Target:
    """A server, a stream beside all that is sent to it, and what came back."""

    address: str
    alone: list[bytes]
    counts: Counter[str] = field(default_factory=Counter)
    disturbed: list[str] = field(default_factory=list)
    rounds: int = 0
    done: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.runner = asyncio.Runner()
        self.channel = self.runner.run(self._connect())
        self.beside = threading.Thread(target=self._keep_asking)
        self.beside.start()

    async def _connect(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self.address)

    def _keep_asking(self) -> None:
        with Client(self.address) as client:
            while not self.done.is_set():
                try:
                    if control(client) != self.alone:
                        self.disturbed.append("other tokens than alone")
                except Exception as error:
                    self.disturbed.append(repr(error))
                self.rounds += 1

    def send(self, requests: list[tuple[str, bytes]]) -> None:
        """All at once; fails on the first that is answered as no request may be."""
        for request, (code, told) in zip(requests, self.runner.run(self._send(requests)), strict=True):
            self.counts[code] += 1
            assert code in FINE, f"{code} ({told}) for {request[0]} {request[1]!r}"
        assert not self.disturbed
        assert self.runner.run(self._health()) == health_pb2.HealthCheckResponse.SERVING

    async def _send(self, requests: list[tuple[str, bytes]]) -> list[tuple[str, str]]:
        return await asyncio.gather(*(self._ask(method, data) for method, data in requests))

    async def _ask(self, method: str, data: bytes) -> tuple[str, str]:
        """Name of the status and the words with it; LEFT for a stream that was still running."""
        if method == hostile.METHODS[hostile.CountTokensRequest]:
            return await self._one(self.channel.unary_unary(method)(data, timeout=SECONDS))
        call = self.channel.unary_stream(method)(data, timeout=SECONDS)
        try:
            for _ in range(READ):
                if await call.read() is grpc.aio.EOF:
                    return "OK", ""
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details() or ""
        call.cancel()
        return "LEFT", ""

    @staticmethod
    async def _one(call: grpc.aio.UnaryUnaryCall) -> tuple[str, str]:
        try:
            await call
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details() or ""
        return "OK", ""

    async def _health(self) -> int:
        stub = health_pb2_grpc.HealthStub(self.channel)
        return (await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)).status

    def close(self) -> None:
        self.done.set()
        self.beside.join()
        self.runner.run(self.channel.close())
        self.runner.close()


def control(client: Client) -> list[bytes]:
    """An honest stream, whose tokens hang on every one before them."""
    return bits(run(client.generate(PROMPT, policy=EntropyFeedback(), seed=3, ignore_eos=True, max_output_tokens=60))[1])


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with process("--max-rows", "16", "--log-level", "error") as (running, address):
        with Client(address) as client:
            alone = control(client)
        made = Target(address, alone)
        yield made
        made.close()
        assert running.poll() is None
        assert not made.disturbed and made.rounds
        print(f"\n{sum(made.counts.values())} requests beside {made.rounds} honest ones: {dict(made.counts)}")


@settings(
    max_examples=max(1, HOW_MANY // 2 // AT_ONCE),
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
    for _ in range(max(1, HOW_MANY // 2 // AT_ONCE)):
        target.send([hostile.mutated(chance) for _ in range(AT_ONCE)])
