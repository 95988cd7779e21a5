"""Bytes that are no message are refused as any bad request is; gRPC alone would answer UNKNOWN."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from server.errors import reporting, unreadable

_PREFIX = "/thermostat."


class Reader(grpc.aio.ServerInterceptor):
    """Reads the requests of our services. Comes last, so that a refusal is entered as every other is."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """The handler, which is now given bytes of any kind."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(_PREFIX):
            return handler
        inner: Callable[..., Any] = handler.unary_unary or handler.unary_stream
        refuse: Callable[..., Any] = _refuse if handler.unary_unary else _refuse_stream
        make = grpc.unary_unary_rpc_method_handler if handler.unary_unary else grpc.unary_stream_rpc_method_handler

        def respond(request: Any, context: grpc.aio.ServicerContext) -> Any:
            return (refuse if isinstance(request, DecodeError) else inner)(request, context)

        return make(respond, _or_fault(handler.request_deserializer), handler.response_serializer)


def _or_fault(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read_or_fault(data: bytes) -> Any:
        try:
            return read(data)
        except DecodeError as fault:
            return fault

    return read_or_fault


async def _refuse(_: DecodeError, context: grpc.aio.ServicerContext) -> None:
    async with reporting(context):
        raise unreadable()


async def _refuse_stream(_: DecodeError, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
    async with reporting(context):
        raise unreadable()
    yield
