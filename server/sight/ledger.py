"""One entry a call: what was asked of the server, by whom, and what came of it. Never the prompt, never the text."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc

from server.access.interceptor import CALLER

_log = logging.getLogger("thermostat.requests")
_PREFIX = "/thermostat."


@dataclass(slots=True)
class Entry:
    """A call. began: on the monotonic clock. seconds: how long it took. figures: of its generation, by name.

    trace: what it brought of W3C's trace context.
    """

    method: str
    trace: Mapping[str, str]
    began: float = field(default_factory=time.monotonic)
    caller: str = ""
    peer: str = ""
    code: str = "OK"
    seconds: float = 0.0
    output_tokens: int = 0
    figures: dict[str, str | int | float] = field(default_factory=dict)

    def read(self, response: Any) -> None:
        """Take in a message of a Generate or Score stream."""
        kind = response.WhichOneof("event")
        if kind == "output":
            self.output_tokens += len(response.output.tokens)
        elif kind == "started":
            started = response.started
            self.figures["generation"] = started.generation_id
            self.figures["policy"] = started.policy.WhichOneof("kind") or ""
            self.figures["prompt_tokens"] = started.prompt_tokens
            self.figures["first_token_seconds"] = time.monotonic() - self.began
        elif kind == "finished":
            self._finish(response.finished)

    def _finish(self, finished: Any) -> None:
        enum = finished.DESCRIPTOR.fields_by_name["reason"].enum_type
        self.figures["reason"] = enum.values_by_number[finished.reason].name.removeprefix("FINISH_REASON_").lower()
        self.figures["queue_seconds"] = finished.timing.queue.ToNanoseconds() / 1e9
        summary = finished.summary
        for name in ("original_entropy", "final_entropy", "temperature"):
            if summary.HasField(name):
                self.figures[f"mean_{name}"] = getattr(summary, name).mean


class Book(Protocol):
    """Where entries go."""

    def open(self, entry: Entry) -> None:
        """A call begins."""

    def close(self, entry: Entry) -> None:
        """It has ended."""


class RequestLog:
    """A line a call, in the log."""

    def open(self, entry: Entry) -> None:
        """Nothing is written before the end."""

    def close(self, entry: Entry) -> None:
        """Write the line."""
        fields: dict[str, Any] = {
            "method": entry.method.rsplit("/", 1)[1],
            "code": entry.code,
            "seconds": entry.seconds,
            "caller": entry.caller,
            "peer": entry.peer,
            "output_tokens": entry.output_tokens,
            **entry.figures,
        }
        fields = {k: round(v, 6) if isinstance(v, float) else v for k, v in fields.items() if v not in ("", None)}
        words = (f"{name}={value}" for name, value in fields.items())
        _log.info("request %s", " ".join(words), extra={"fields": fields})


class Ledger(grpc.aio.ServerInterceptor):
    """Keeps an entry for every call of our services. Comes first, so that refused calls are entered too."""

    def __init__(self, books: Sequence[Book]) -> None:
        self._books = books

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """The handler, with an entry around it."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(_PREFIX):
            return handler
        trace = {k: v for k, v in handler_call_details.invocation_metadata if k in ("traceparent", "tracestate")}
        entry = Entry(handler_call_details.method, trace)
        return self._streaming(handler, entry) if handler.unary_stream else self._answering(handler, entry)

    def _streaming(self, handler: grpc.RpcMethodHandler, entry: Entry) -> grpc.RpcMethodHandler:
        async def respond(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            with self._entered(entry, context):
                async with aclosing(handler.unary_stream(request, context)) as responses:
                    async for response in responses:
                        entry.read(response)
                        yield response

        return grpc.unary_stream_rpc_method_handler(respond, handler.request_deserializer, handler.response_serializer)

    def _answering(self, handler: grpc.RpcMethodHandler, entry: Entry) -> grpc.RpcMethodHandler:
        """A call with one answer; or with none, where it is refused before anything is read (stream_unary)."""
        inner, make = handler.unary_unary, grpc.unary_unary_rpc_method_handler
        if inner is None:
            inner, make = handler.stream_unary, grpc.stream_unary_rpc_method_handler

        async def respond(request: Any, context: grpc.aio.ServicerContext) -> Any:
            with self._entered(entry, context):
                return await inner(request, context)

        return make(respond, handler.request_deserializer, handler.response_serializer)

    @contextmanager
    def _entered(self, entry: Entry, context: grpc.aio.ServicerContext) -> Iterator[None]:
        # Asked now: once the call is gone, grpcio reads freed memory for the answer.
        entry.peer, remaining = context.peer(), context.time_remaining()
        entry.caller = CALLER.get() or _certificate_name(context)
        for book in self._books:
            book.open(entry)
        try:
            yield
        except grpc.aio.AbortError:
            entry.code = _code(context.code())
            raise
        except (asyncio.CancelledError, GeneratorExit):
            late = time.monotonic() - entry.began >= (math.inf if remaining is None else remaining)
            entry.code = "DEADLINE_EXCEEDED" if late else "CANCELLED"
            raise
        except BaseException:
            entry.code = "UNKNOWN"
            raise
        finally:
            entry.seconds = time.monotonic() - entry.began
            for book in self._books:
                book.close(entry)


def _certificate_name(context: grpc.aio.ServicerContext) -> str:
    """The common name of the client's certificate; empty if it has none."""
    return b"".join(context.auth_context().get("x509_common_name", ())).decode("utf-8", "replace")


def _code(code: Any) -> str:
    """Name of a status, which grpc.aio keeps as a number or as itself."""
    return next((status.name for status in grpc.StatusCode if code in (status, status.value[0])), "UNKNOWN")
