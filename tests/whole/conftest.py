"""Real servers on real sockets: one process for the embedded model, and servers inside the test for other models."""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from server.app import start, stop
from server.config import Config
from tests import models
from thermostat import Client

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def process(*arguments: str, log: Path | None = None, **variables: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """A server process and its address. log: where its stderr goes. variables: of its environment."""
    command = [sys.executable, "-m", "server", "--port", "0", *arguments]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} | variables
    with (
        open(log or os.devnull, "w") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors if log else None, text=True, cwd=ROOT, env=environment
        ) as running,
    ):
        try:
            line = running.stdout.readline()
            assert line.startswith("listening on "), "the server did not start"
            yield running, line.removeprefix("listening on ").strip()
        finally:
            running.terminate()
            try:
                running.wait(20)
            except subprocess.TimeoutExpired:
                running.kill()


@contextlib.contextmanager
def inside(config: Config) -> Iterator[str]:
    """A server in a thread of this process, on a real socket; its address."""
    ready: Future[str] = Future()
    ends: list[Callable[[], None]] = []

    async def main() -> None:
        try:
            app = await start(config)
        except BaseException as fault:
            ready.set_exception(fault)
            return
        asked, loop = asyncio.Event(), asyncio.get_running_loop()
        ends.append(lambda: loop.call_soon_threadsafe(asked.set))
        ready.set_result(app.address)
        await asked.wait()
        await stop(app, 0)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        yield ready.result(120)
    finally:
        for end in ends:
            end()
        thread.join(30)


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """A server process with the embedded model in float32."""
    with process("--max-rows", "16", "--log-level", "warning") as (_, where):
        yield where


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as made:
        yield made


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a tiny random model of a family, once."""
    folder = tmp_path_factory.mktemp("models")
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            settings = models.FAMILIES[family] if family in models.FAMILIES else models.REFUSED[family][0]
            made[family] = models.make(folder, family, settings)
        return made[family]

    return make
