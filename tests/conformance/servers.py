"""The servers that clients run against, each with a gRPC address and one for browsers."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass

from server.web import Web
from tests.conformance import programs
from tests.conformance.future_server import future_server
from tests.whole.conftest import process


@dataclass(frozen=True)
class Addresses:
    """Where one server listens."""

    grpc: str
    web: str

    def of(self, client: str) -> str:
        """The address that a client takes."""
        return self.web if client in programs.WEB else self.grpc


@contextmanager
def live() -> Iterator[Addresses]:
    """The embedded model in float32, with one place: a generation that was not cancelled makes the next one wait."""
    arguments = ("--max-rows", "1", "--dtype", "float32", "--log-level", "warning", "--web-port", "0")
    with process(*arguments, "--web-origin", "*") as (running, address):
        yield Addresses(address, running.stdout.readline().removeprefix("web on ").strip())


@contextmanager
def future() -> Iterator[Addresses]:
    """A server of the contract's future that has not been called yet."""
    with future_server() as address, web_port(address) as web:
        yield Addresses(address, web)


@contextmanager
def web_port(target: str) -> Iterator[str]:
    """A web port before any gRPC server; its address."""
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, str]] = Future()

    async def main() -> None:
        web = Web("127.0.0.1", 0, ["*"])
        web.target = target
        await web.start()
        end = asyncio.Event()
        ready.set_result((asyncio.get_running_loop(), end, web.address))
        await end.wait()
        await web.stop()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    loop, end, address = ready.result(10)
    try:
        yield address
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(10)
