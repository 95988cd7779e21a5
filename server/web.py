"""Connect and gRPC-Web, for browsers, on a port of their own.

Every call is made again as a gRPC call to the server itself, so that whatever holds for gRPC calls, such as limits,
credentials, deadlines and the log, holds for these too. It ends when the browser goes.
"""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import uvicorn
from connectrpc.code import Code
from connectrpc.compat import google_protobuf_codecs
from connectrpc.errors import ConnectError, ErrorDetail
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.request import RequestContext
from connectrpc.server import ConnectASGIApplication, Endpoint
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2
from protobuf.wkt import Any as ConnectAny
from starlette.middleware.cors import CORSMiddleware

from thermostat.v1 import generation_pb2, model_pb2

_SERVICES = (
    generation_pb2.DESCRIPTOR.services_by_name["GenerationService"],
    model_pb2.DESCRIPTOR.services_by_name["ModelService"],
)
_FORWARDED = ("authorization", "traceparent")
_EXPOSED = ("grpc-status", "grpc-message", "grpc-status-details-bin")


class _Application(ConnectASGIApplication[grpc.aio.Channel]):
    path = "/"  # each endpoint names its whole path


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the app's, which stops this server with the others."""
        yield


class Web:
    """A web port. OSError if it cannot be had."""

    def __init__(self, host: str, port: int, origins: Sequence[str]) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family)
        self.address = f"{f'[{host}]' if ':' in host else host}:{self._listener.getsockname()[1]}"
        # Where the gRPC server has to listen too: a socket that no other user can reach.
        self._folder = tempfile.TemporaryDirectory(prefix="thermostat-")
        self.target = f"unix:{self._folder.name}/grpc"
        self._origins = origins

    async def start(self) -> None:
        """Serve the gRPC server at `target` to pages of the origins."""
        self._channel = grpc.aio.insecure_channel(self.target)
        application = CORSMiddleware(
            _Application(service=self._channel, endpoints=_endpoints, codecs=google_protobuf_codecs()),
            allow_origins=self._origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        )
        # The gRPC server has ended its calls before this one stops: a second is for the last bytes.
        config = uvicorn.Config(
            application,
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))

    async def stop(self) -> None:
        """Take no new calls, and end with the last."""
        self._server.should_exit = True
        await self._task
        await self._channel.close()
        self._folder.cleanup()


def _endpoints(channel: grpc.aio.Channel) -> dict[str, Any]:
    methods = (method for service in _SERVICES for method in service.methods)
    return {_path(method): _endpoint(channel, method) for method in methods}


def _path(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def _endpoint(channel: grpc.aio.Channel, method: MethodDescriptor) -> Any:
    request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    info: MethodInfo[Any, Any] = MethodInfo(
        name=method.name,
        service_name=method.containing_service.full_name,
        input=request,
        output=response,
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=StreamType.SERVER_STREAM if method.server_streaming else StreamType.UNARY,
    )
    make = channel.unary_stream if method.server_streaming else channel.unary_unary
    call = make(_path(method), request.SerializeToString, response.FromString)

    async def answer(message: Any, context: RequestContext) -> Any:
        with _translated():
            return await call(message, **_arguments(context))

    async def stream(message: Any, context: RequestContext) -> AsyncIterator[Any]:
        running = call(message, **_arguments(context))
        try:
            with _translated():
                async for each in running:
                    yield each
        finally:
            running.cancel()

    if method.server_streaming:
        return Endpoint.server_stream(method=info, function=stream)
    return Endpoint.unary(method=info, function=answer)


def _arguments(context: RequestContext) -> dict[str, Any]:
    headers, left = context.request_headers, context.timeout_ms
    return {
        "metadata": tuple((name, headers[name]) for name in _FORWARDED if name in headers),
        "timeout": None if left is None else left / 1000,
    }


@contextmanager
def _translated() -> Iterator[None]:
    """Raise gRPC errors as Connect's, details and all."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        trailer = dict(error.trailing_metadata() or ())
        status = status_pb2.Status.FromString(trailer.get("grpc-status-details-bin", b""))
        details = [ErrorDetail(ConnectAny(type_url=each.type_url, value=each.value)) for each in status.details]
        name = error.code().name.replace("CANCELLED", "CANCELED")
        raise ConnectError(Code[name], error.details() or "", details) from error
