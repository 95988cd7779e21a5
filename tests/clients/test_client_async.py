"""The asyncio client against the same fake server."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import pytest
from google.rpc import error_details_pb2

from tests.clients.fake_server import TEXT, TOKENS, Failure, FakeServer
from thermostat import AsyncClient, Cancelled, Client, Finished, InvalidRequest, Output, Started, Unavailable

PROMPTLY = 2.0


def run(server: FakeServer, body: Callable[[AsyncClient], Awaitable[None]]) -> None:
    """Run `body` with a client of the server."""

    async def main() -> None:
        async with AsyncClient(server.target) as client:
            await body(client)

    asyncio.run(main())


async def until_cancelled(server: FakeServer) -> bool:
    return await asyncio.to_thread(server.cancelled.wait, PROMPTLY)


def test_a_generation_is_started_outputs_finished(server: FakeServer) -> None:
    async def body(client: AsyncClient) -> None:
        events = [event async for event in client.generate("def ", seed=7)]
        assert isinstance(events[0], Started) and isinstance(events[-1], Finished)
        assert len(events) == len(TOKENS) + 2
        assert await client.text("def ") == TEXT

    run(server, body)
    assert server.requests[0].seed == 7


def test_break_cancels_the_call(server: FakeServer) -> None:
    async def body(client: AsyncClient) -> None:
        server.endless = True
        generation = client.generate("def ")
        async for event in generation:
            if isinstance(event, Output):
                break
        assert await until_cancelled(server)
        with pytest.raises(Cancelled):
            await generation.__anext__()

    run(server, body)


def test_an_exception_in_the_loop_cancels_the_call(server: FakeServer) -> None:
    async def body(client: AsyncClient) -> None:
        server.endless = True
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the loop is what is tested
            async for _ in client.generate("def "):
                raise ZeroDivisionError
        assert await until_cancelled(server)

    run(server, body)


def test_a_cancelled_task_sees_cancelled_error_and_cancels_the_call(server: FakeServer) -> None:
    async def read(client: AsyncClient) -> None:
        async with client.generate("def ") as generation:
            async for _ in generation:
                pass

    async def body(client: AsyncClient) -> None:
        server.endless = True
        task = asyncio.create_task(read(client))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await until_cancelled(server)

    run(server, body)


def test_errors_carry_their_details(server: FakeServer) -> None:
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="seed", description="must be less")

    async def body(client: AsyncClient) -> None:
        server.failures = [Failure(grpc.StatusCode.INVALID_ARGUMENT, "wrong", (bad,))]
        with pytest.raises(InvalidRequest) as caught:
            await client.text("def ")
        assert caught.value.violations[0].field == "seed"

    run(server, body)


def test_unavailable_before_the_first_token_is_tried_again(server: FakeServer) -> None:
    async def body(client: AsyncClient) -> None:
        server.failures = [Failure(grpc.StatusCode.UNAVAILABLE, "loading")]
        assert await client.text("def ") == TEXT

    run(server, body)
    assert len(server.requests) == 2


def test_questions_about_the_model(server: FakeServer) -> None:
    async def body(client: AsyncClient) -> None:
        assert (await client.model()).name == "fake"
        assert len(await client.policies()) == 3
        assert (await client.count_tokens([1, 2])).token_count == 2
        server.set_serving(True)
        await client.wait_ready(5)
        server.set_serving(False)
        with pytest.raises(Unavailable):
            await client.wait_ready(0.1)

    run(server, body)


def test_both_clients_have_the_same_methods() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(AsyncClient) == public(Client)
