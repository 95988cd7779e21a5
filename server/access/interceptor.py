"""The door: finds out who calls before anything of the request is read."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

import grpc
from grpc_health.v1 import health

from server.access.callers import Caller, Callers, TooMany
from server.errors import RequestError, caller_busy, permission_denied, reporting, unauthenticated

CALLER: ContextVar[str] = ContextVar("caller", default="")
"""Name of the caller whose request is being handled; empty where nobody asks for tokens."""


class Door(grpc.aio.ServerInterceptor):
    """Lets in those who have a token, but for health, which a probe may ask without one."""

    def __init__(self, callers: Callable[[], Callers]) -> None:
        self._callers = callers

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """The handler, or one that refuses."""
        method = handler_call_details.method
        if method.startswith(f"/{health.SERVICE_NAME}/"):
            return await continuation(handler_call_details)
        caller = self._callers().find(_bearer(handler_call_details.invocation_metadata))
        if caller is None:
            return _refusing(unauthenticated())
        CALLER.set(caller.name)
        if not caller.may_call(method):
            return _refusing(permission_denied(caller.name, method))
        handler = await continuation(handler_call_details)
        return _gated(handler, caller) if handler is not None and handler.unary_stream is not None else handler


def _bearer(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The token of a call; empty if there is none."""
    for key, value in metadata:
        if key == "authorization" and isinstance(value, str) and value[:7].lower() == "bearer ":
            return value[7:].strip()
    return ""


def _refusing(error: RequestError) -> grpc.RpcMethodHandler:
    """A handler of any kind of call: it ends it without reading a message."""

    async def refuse(_: Any, context: grpc.aio.ServicerContext) -> None:
        async with reporting(context):
            raise error

    return grpc.stream_unary_rpc_method_handler(refuse)


def _gated(handler: grpc.RpcMethodHandler, caller: Caller) -> grpc.RpcMethodHandler:
    """A generation waits here for a place among those of its caller, so that it takes nobody else's."""

    async def respond(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        async with reporting(context):
            try:
                async with caller.gate.hold(), aclosing(handler.unary_stream(request, context)) as responses:
                    async for response in responses:
                        yield response
            except TooMany as many:
                raise caller_busy(str(many)) from many

    return grpc.unary_stream_rpc_method_handler(respond, handler.request_deserializer, handler.response_serializer)
