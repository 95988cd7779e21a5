"""The client goes on by itself where its stream broke: a restart is seen as a pause."""

import asyncio
import signal
import socket
import threading
import time

import pytest

from tests.whole.conftest import process
from tests.whole.runs import POLICIES, PROMPT, bits, run, tokens
from thermostat import AsyncClient, Client, Output, Unavailable

LENGTH = 120
KINDS = ["fixed", "mirostat", "phased"]


def options(name):
    return {"policy": POLICIES[name], "seed": 4, "ignore_eos": True, "max_output_tokens": LENGTH, "top_p": 0.9}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Restarted:
    """A server that is ended by a signal while streams run, and started again on the same port."""

    def __init__(self, *arguments, ending):
        self.port, self.arguments, self.ending = str(free_port()), arguments, ending
        self._again = threading.Event()
        self._done = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_):
        self._again.set()
        self._done.set()
        self._thread.join(60)

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def restart(self):
        """End it now; it comes back in its own time."""
        self._again.set()

    def _serve(self):
        while not self._done.is_set():
            with process("--port", self.port, "--log-level", "error", *self.arguments) as (running, _):
                self._ready.set()
                self._again.wait()
                self._again.clear()
                running.send_signal(self.ending)
                running.wait(30)


@pytest.mark.parametrize(
    ("ending", "arguments"),
    [(signal.SIGKILL, ()), (signal.SIGTERM, ("--grace", "0", "--drain-delay", "0"))],
    ids=["killed", "drained without grace"],
)
def test_streams_go_on_over_a_restart_with_the_bits_that_they_would_have_had(ending, arguments):
    with Restarted(*arguments, ending=ending) as server, Client(server.address, resume_seconds=60) as client:
        uncut = {name: run(client.generate(PROMPT, **options(name))) for name in KINDS}
        streams = {name: client.generate(PROMPT, **options(name)) for name in KINDS}
        seen = {name: [next(stream) for _ in range(20)] for name, stream in streams.items()}
        server.restart()
        for name, stream in streams.items():
            started, drawn, finished, text = run([*seen[name], *stream])
            assert bits(drawn) == bits(uncut[name][1])
            assert (text, finished.reason) == (uncut[name][3], uncut[name][2].reason)
            assert finished.usage.output_tokens == LENGTH
            assert started.seed == 4


def test_text_and_the_async_client_go_on_too():
    """`text` asks for no sampling info: the state of the policy comes with the messages."""

    async def both(server):
        async with AsyncClient(server.address, resume_seconds=60) as client:
            asked = options("mirostat") | {"max_tokens_per_message": 8}
            text = await client.text(PROMPT, **asked)
            one = asyncio.create_task(client.text(PROMPT, **asked))
            drawn = []
            async for event in client.generate(PROMPT, **options("mirostat")):
                if isinstance(event, Output):
                    drawn += event.tokens
                if len(drawn) == 30:
                    server.restart()
            return text, await one, drawn

    with Restarted(ending=signal.SIGKILL) as server:
        with Client(server.address) as client:
            uncut = run(client.generate(PROMPT, **options("mirostat")))
        text, again, drawn = asyncio.run(both(server))
    assert text == again == uncut[3]
    assert bits(drawn) == bits(uncut[1])


def test_it_can_be_switched_off_and_ends_in_time():
    with Restarted(ending=signal.SIGKILL) as server:
        for seconds in (0.0, 0.5):
            with Client(server.address, resume_seconds=seconds) as client:
                client.wait_ready(60)
                stream = client.generate(PROMPT, **options("fixed") | {"max_output_tokens": 1900})
                next(stream)
                server.restart()
                began = time.monotonic()
                with pytest.raises(Unavailable):
                    tokens(stream)
                assert time.monotonic() - began < seconds + 4
