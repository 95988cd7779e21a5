"""The asyncio client: the same calls as `thermostat.client`, to be awaited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from thermostat.channel import HEALTH_SERVING, HEALTH_WATCH, OPTIONS, call_metadata, health_request, health_status
from thermostat.errors import ThermostatError, Unavailable, cancelled, error_from, translated
from thermostat.events import Event, Output, unwrap
from thermostat.progress import Progress
from thermostat.request import GenerateOptions, Prompt, ScoreOptions, count_request, generate_request, score_request
from thermostat.v1 import generation_pb2_grpc, model_pb2, model_pb2_grpc
from thermostat.v1.generation_pb2 import GenerateRequest

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class AsyncGeneration(AsyncIterator[Event]):
    """The events of one generation, as they arrive. Leaving a loop over it, however, cancels the call; so does
    `cancel()`, the end of an `async with` block, dropping the last reference, and cancelling the task that waits.

    Errors are raised as `ThermostatError`. After `cancel()`, reading on raises `Cancelled`; a task that is itself
    cancelled sees asyncio.CancelledError as always.
    """

    def __init__(self, begin: Callable[[Any], Any], request: Any, progress: Progress | None = None) -> None:
        self._begin = begin
        self._progress = progress
        self._cancelled = False
        self._call: Any = None
        self._call = begin(request)

    def cancel(self) -> None:
        """Cancel the call. Does nothing if it has ended."""
        self._cancelled = self._call.cancel() or self._cancelled

    async def __anext__(self) -> Event:
        while True:
            try:
                with translated():
                    while (response := await self._call.read()) is not grpc.aio.EOF:
                        event = unwrap(response)
                        if event is not None and self._progress is not None:
                            event = self._progress.take(event)
                        if event is not None:
                            return event
            except asyncio.CancelledError:
                if not self._cancelled:
                    raise
            except ThermostatError as error:
                await self._go_on(error)
                continue
            if self._cancelled:
                raise cancelled()
            raise StopAsyncIteration

    async def _go_on(self, error: ThermostatError) -> None:
        """Begin again where the stream broke; raises the error if that is not to be."""
        wait = None if self._progress is None or self._cancelled else self._progress.wait(error)
        if wait is None or self._progress is None:
            raise error
        await asyncio.sleep(wait)
        if not self._cancelled:
            self._call = self._begin(self._progress.request())

    def __aiter__(self) -> AsyncIterator[Event]:
        return _Loop(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        if self._call is not None:
            self._call.cancel()


class _Loop(AsyncIterator[Event]):
    """What an `async for` holds: it goes when the loop is left, and takes the call with it.

    An async generator would not do: asyncio closes it only at some later turn of the event loop.
    """

    def __init__(self, generation: AsyncGeneration) -> None:
        self._generation = generation

    async def __anext__(self) -> Event:
        return await self._generation.__anext__()

    def __del__(self) -> None:
        self._generation.cancel()


class AsyncClient:
    """A connection to a Thermostat server, for asyncio. Make it where a loop runs; arguments as of `Client`.

    async with AsyncClient("localhost:50051") as client:
        async for event in client.generate("def ", policy=TargetEntropy(1.5), seed=7):
            ...
    """

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        credentials: grpc.ChannelCredentials | None = None,
        token: str | None = None,
        metadata: Sequence[tuple[str, str]] = (),
        options: Sequence[tuple[str, int | str]] = (),
        resume_seconds: float = 30.0,
    ) -> None:
        arguments = [*OPTIONS, *options]
        self._channel = (
            grpc.aio.secure_channel(target, credentials, arguments)
            if credentials
            else grpc.aio.insecure_channel(target, arguments)
        )
        self._metadata = call_metadata(metadata, token)
        self._resume_seconds = resume_seconds
        self._generation = generation_pb2_grpc.GenerationServiceStub(self._channel)
        self._model = model_pb2_grpc.ModelServiceStub(self._channel)
        self._health = self._channel.unary_stream(HEALTH_WATCH, None, health_status)

    def generate(
        self, prompt: Prompt | GenerateRequest, *, timeout: float | None = None, **options: Unpack[GenerateOptions]
    ) -> AsyncGeneration:
        """Continue a prompt; to be iterated with `async for`. Arguments as of `Client.generate`."""
        request = generate_request(prompt, options)
        return AsyncGeneration(
            self._until(self._generation.Generate, timeout), request, Progress(request, self._resume_seconds)
        )

    def score(self, text: Prompt, *, timeout: float | None = None, **options: Unpack[ScoreOptions]) -> AsyncGeneration:
        """Read a text, token by token. Arguments as of `Client.score`."""
        request = score_request(text, options)
        return AsyncGeneration(self._until(self._generation.Score, timeout), request)

    async def text(self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[GenerateOptions]) -> str:
        """The whole text that `generate` gives."""
        options.setdefault("sampling_info", False)
        options.setdefault("max_tokens_per_message", 16)
        events = self.generate(prompt, timeout=timeout, **options)
        return "".join([event.text_delta async for event in events if isinstance(event, Output)])

    async def model(self, name: str = "", *, timeout: float | None = None) -> model_pb2.Model:
        """The served model and the server's limits."""
        request = model_pb2.GetModelRequest(model=name)
        with translated():
            return (await self._model.GetModel(request, timeout=timeout, metadata=self._metadata)).model

    async def policies(self, *, timeout: float | None = None) -> list[model_pb2.PolicyDescription]:
        """Every policy of the server, with parameters, units, ranges and defaults."""
        request = model_pb2.ListPoliciesRequest()
        with translated():
            return list((await self._model.ListPolicies(request, timeout=timeout, metadata=self._metadata)).policies)

    async def presets(self, *, timeout: float | None = None) -> list[model_pb2.PresetDescription]:
        """Every preset of the server: settings known by a name."""
        request = model_pb2.ListPoliciesRequest()
        with translated():
            return list((await self._model.ListPolicies(request, timeout=timeout, metadata=self._metadata)).presets)

    async def count_tokens(
        self,
        prompt: Prompt,
        *,
        model: str = "",
        add_generation_prompt: bool | None = None,
        timeout: float | None = None,
    ) -> model_pb2.CountTokensResponse:
        """The tokens of a prompt exactly as `generate` would see it: `token_count` and `token_ids`."""
        request = count_request(prompt, model, add_generation_prompt)
        with translated():
            return await self._model.CountTokens(request, timeout=timeout, metadata=self._metadata)

    async def wait_ready(self, timeout: float = 60.0) -> None:
        """Return as soon as the server says that it serves. Raises `Unavailable` after `timeout` seconds."""
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            call = self._health(health_request(), timeout=left, metadata=self._metadata, wait_for_ready=True)
            try:
                async for status in call:
                    if status == HEALTH_SERVING:
                        return
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise error_from(error) from error
            finally:
                call.cancel()
            await asyncio.sleep(min(0.1, max(0.0, end - time.monotonic())))
        raise Unavailable(grpc.StatusCode.UNAVAILABLE, f"the server was not ready within {timeout:g} s")

    async def close(self) -> None:
        """Close the connection; calls that run are cancelled."""
        await self._channel.close()

    def _until(self, method: Any, timeout: float | None) -> Callable[[Any], Any]:
        """Begins a call, or begins it again, within one deadline."""
        end = None if timeout is None else time.monotonic() + timeout

        def begin(request: Any) -> Any:
            left = None if end is None else max(0.0, end - time.monotonic())
            return method(request, timeout=left, metadata=self._metadata)

        return begin

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
