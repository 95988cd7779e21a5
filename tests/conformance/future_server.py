"""A server of the contract's future: it sends events, fields, enum values and error details that no client knows yet.

Answers by the text of the request: "future", "future error", and "retry", whose first try it refuses.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2, status_pb2

from thermostat.v1 import generation_pb2 as pb

# A field 1000 of two bytes: protobuf keeps it as unknown wherever it is appended.
UNKNOWN_FIELD = bytes([0xC2, 0x3E, 2]) + b"hi"
UNKNOWN_REASON = 99


def future_events() -> Iterator[bytes]:
    """One generation with something unknown in every message."""
    info = pb.SamplingInfo.FromString(pb.SamplingInfo(original_entropy=1.5).SerializeToString() + UNKNOWN_FIELD)
    token = pb.Token.FromString(pb.Token(token_id=5, token_bytes=b"x").SerializeToString() + UNKNOWN_FIELD)
    token.sampling_info.CopyFrom(info)
    yield pb.GenerateResponse(started=pb.Started(model="future", seed=2**64 - 1)).SerializeToString() + UNKNOWN_FIELD
    yield UNKNOWN_FIELD
    yield pb.GenerateResponse(output=pb.Output(text_delta="x", tokens=[token])).SerializeToString() + UNKNOWN_FIELD
    yield b""
    yield pb.GenerateResponse(finished=pb.Finished(reason=UNKNOWN_REASON)).SerializeToString()  # type: ignore[arg-type]


def future_error(context: grpc.ServicerContext) -> None:
    """INVALID_ARGUMENT with a detail of an unknown type before the one that clients know."""
    status = status_pb2.Status(code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message="text: must be of the past")
    status.details.add(type_url="type.googleapis.com/google.rpc.NotYetInvented", value=UNKNOWN_FIELD)
    violation = error_details_pb2.BadRequest.FieldViolation(field="text", description="must be of the past")
    packed = Any()
    packed.Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    status.details.append(packed)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, status.message)


@contextmanager
def future_server() -> Iterator[str]:
    """Serve on a free port of the loopback; its address."""
    tries: list[str] = []

    def generate(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[bytes]:
        tries.append(request.text)
        if request.text == "future error":
            future_error(context)
        if request.text == "retry" and tries.count("retry") == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "come again")
        yield from future_events()

    method = grpc.unary_stream_rpc_method_handler(generate, pb.GenerateRequest.FromString)
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("thermostat.v1.GenerationService", {"Generate": method}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
