"""The synchronous client."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import grpc

from thermostat.channel import HEALTH_SERVING, HEALTH_WATCH, OPTIONS, call_metadata, health_request, health_status
from thermostat.errors import ThermostatError, Unavailable, error_from, translated
from thermostat.events import Event, Output, unwrap
from thermostat.progress import Progress
from thermostat.request import GenerateOptions, Prompt, ScoreOptions, count_request, generate_request, score_request
from thermostat.v1 import generation_pb2_grpc, model_pb2, model_pb2_grpc
from thermostat.v1.generation_pb2 import GenerateRequest

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class Generation(Iterator[Event]):
    """The events of one generation, as they arrive. Leaving a loop over it, however, cancels the call:

        for event in client.generate("def "):
            break                                # the server stops within one step

    So does `cancel()` (from any thread), the end of a `with` block, and dropping the last reference.
    Errors are raised as `ThermostatError`; a call that was cancelled raises `Cancelled` when it is read on. A stream
    that breaks goes on where it was, as long as `progress` lets it.
    """

    def __init__(self, begin: Callable[[Any], Any], request: Any, progress: Progress | None = None) -> None:
        self._begin = begin
        self._progress = progress
        self._cancelled = threading.Event()
        self._call: Any = None
        self._call = begin(request)

    def cancel(self) -> None:
        """Cancel the call. Does nothing if it has ended."""
        self._cancelled.set()
        if self._call is not None:
            self._call.cancel()

    def __next__(self) -> Event:
        event = self._read()
        if event is None:
            raise StopIteration
        return event

    def __iter__(self) -> Iterator[Event]:
        # A generator, because Python closes it when its loop is left: gRPC's own iterator would let the call run on.
        with self:
            while (event := self._read()) is not None:
                yield event

    def _read(self) -> Event | None:
        """The next event that this client knows; None at the end."""
        while True:
            try:
                with translated():
                    for response in self._call:
                        event = unwrap(response)
                        if event is not None and self._progress is not None:
                            event = self._progress.take(event)
                        if event is not None:
                            return event
                return None
            except ThermostatError as error:
                self._go_on(error)

    def _go_on(self, error: ThermostatError) -> None:
        """Begin again where the stream broke; raises the error if that is not to be."""
        wait = None if self._progress is None or self._cancelled.is_set() else self._progress.wait(error)
        if wait is None or self._progress is None or self._cancelled.wait(wait):
            raise error
        self._call = self._begin(self._progress.request())
        if self._cancelled.is_set():
            self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        self.cancel()


class Client:
    """A connection to a Thermostat server. Thread-safe; use it as a context manager, or `close` it.

        with Client("localhost:50051") as client:
            for event in client.generate("def ", policy=TargetEntropy(1.5), seed=7):
                ...

    target       HOST:PORT, unix:PATH, or any name that gRPC resolves.
    credentials  Of the channel: `thermostat.tls(...)`. Default: plain text.
    token        Bearer token, where the server asks for one.
    metadata     Sent with every call.
    options      gRPC channel options, added to the client's own.

    resume_seconds  For how long a generation whose stream broke, by a restart or a lost connection, is tried again.
                 It goes on with exactly the tokens that it would have had. 0: never.

    Calls that find no server are tried four times within about two seconds. `timeout` of a call is its deadline in
    seconds; None is none. Every method raises `ThermostatError`.
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
            grpc.secure_channel(target, credentials, arguments)
            if credentials
            else grpc.insecure_channel(target, arguments)
        )
        self._metadata = call_metadata(metadata, token)
        self._resume_seconds = resume_seconds
        self._generation = generation_pb2_grpc.GenerationServiceStub(self._channel)
        self._model = model_pb2_grpc.ModelServiceStub(self._channel)
        self._health = self._channel.unary_stream(HEALTH_WATCH, None, health_status)

    def generate(
        self, prompt: Prompt | GenerateRequest, *, timeout: float | None = None, **options: Unpack[GenerateOptions]
    ) -> Generation:
        """Continue a prompt; yields one `Started`, the `Output` as tokens are drawn, one `Finished`.

        prompt: text, token ids, a chat as a list of {"role": ..., "content": ...}, or a whole GenerateRequest, which
        takes no options. The options, with units and defaults, are those of `thermostat.request.GenerateOptions`:
        policy, seed, the filters (top_k, top_p, ...), penalties, logit_bias, constraint, signals, the stopping rules
        (max_output_tokens, stop_sequences, ...), resume, what is reported (sampling_info, candidates,
        max_tokens_per_message), add_generation_prompt, model.
        """
        request = generate_request(prompt, options)
        return Generation(
            self._until(self._generation.Generate, timeout), request, Progress(request, self._resume_seconds)
        )

    def score(self, text: Prompt, *, timeout: float | None = None, **options: Unpack[ScoreOptions]) -> Generation:
        """Read a text; yields one `Started`, `Output` with the sampling info of each token, one `Finished`.

        Nothing is drawn: the info says what the policy would have done. Options: `thermostat.request.ScoreOptions`.
        """
        request = score_request(text, options)
        return Generation(self._until(self._generation.Score, timeout), request)

    def text(self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[GenerateOptions]) -> str:
        """The whole text that `generate` gives."""
        options.setdefault("sampling_info", False)
        options.setdefault("max_tokens_per_message", 16)
        events = self.generate(prompt, timeout=timeout, **options)
        return "".join(event.text_delta for event in events if isinstance(event, Output))

    def model(self, name: str = "", *, timeout: float | None = None) -> model_pb2.Model:
        """The served model and the server's limits."""
        request = model_pb2.GetModelRequest(model=name)
        with translated():
            return self._model.GetModel(request, timeout=timeout, metadata=self._metadata).model

    def policies(self, *, timeout: float | None = None) -> list[model_pb2.PolicyDescription]:
        """Every policy of the server, with parameters, units, ranges and defaults."""
        request = model_pb2.ListPoliciesRequest()
        with translated():
            return list(self._model.ListPolicies(request, timeout=timeout, metadata=self._metadata).policies)

    def presets(self, *, timeout: float | None = None) -> list[model_pb2.PresetDescription]:
        """Every preset of the server: settings known by a name."""
        request = model_pb2.ListPoliciesRequest()
        with translated():
            return list(self._model.ListPolicies(request, timeout=timeout, metadata=self._metadata).presets)

    def count_tokens(
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
            return self._model.CountTokens(request, timeout=timeout, metadata=self._metadata)

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Return as soon as the server says that it serves. Raises `Unavailable` after `timeout` seconds."""
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            call = self._health(health_request(), timeout=left, metadata=self._metadata, wait_for_ready=True)
            try:
                if HEALTH_SERVING in call:
                    return
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise error_from(error) from error
            finally:
                call.cancel()
            time.sleep(min(0.1, max(0.0, end - time.monotonic())))
        raise Unavailable(grpc.StatusCode.UNAVAILABLE, f"the server was not ready within {timeout:g} s")

    def close(self) -> None:
        """Close the connection; calls that run are cancelled."""
        self._channel.close()

    def _until(self, method: Any, timeout: float | None) -> Callable[[Any], Any]:
        """Begins a call, or begins it again, within one deadline."""
        end = None if timeout is None else time.monotonic() + timeout

        def begin(request: Any) -> Any:
            left = None if end is None else max(0.0, end - time.monotonic())
            return method(request, timeout=left, metadata=self._metadata)

        return begin

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
