"""What can go wrong, as exceptions.

    ThermostatError
    ├── InvalidRequest      the request breaks the contract; `violations` lists every field at fault
    ├── ModelNotFound       another model than the served one was named
    ├── AccessDenied        no or wrong credentials
    ├── Overloaded          the queue is full; `retry_after` says when to come back
    ├── Unavailable         no server, or one that starts or drains
    ├── DeadlineExceeded    the call's timeout passed
    ├── Cancelled           the call was cancelled
    └── ServerFault         a fault of the server; `incident` finds it in the server's log

Catch `ThermostatError` for all of them. `error_from` makes one from any gRPC error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True)
class FieldViolation:
    """One field that broke the contract: its dotted path in the request, and what is allowed."""

    field: str
    description: str


@dataclass
class Details:
    """What the server said beside code and message."""

    violations: list[FieldViolation] = field(default_factory=list)
    retry_after: float | None = None
    """Seconds to wait before another try; None if the server did not say."""
    reason: str = ""
    """A constant in upper case that names the cause, such as QUEUE_FULL."""
    metadata: dict[str, str] = field(default_factory=dict)
    """More about the cause."""
    resource: str = ""
    """Name of what was not found."""


class ThermostatError(Exception):
    """A call that failed. `code` is the gRPC status, `message` the server's words, the rest as in `Details`."""

    def __init__(self, code: grpc.StatusCode, message: str, details: Details | None = None) -> None:
        super().__init__(message)
        details = details or Details()
        self.code = code
        self.message = message
        self.violations = details.violations
        self.retry_after = details.retry_after
        self.reason = details.reason
        self.metadata = details.metadata
        self.resource = details.resource

    @property
    def incident(self) -> str | None:
        """Identifies a fault in the server's log."""
        return self.metadata.get("incident")

    def __str__(self) -> str:
        untold = [each for each in self.violations if each.description not in self.message]
        return "\n".join([self.message, *(f"  {each.field}: {each.description}" for each in untold)])


class InvalidRequest(ThermostatError):
    """The request breaks the contract (INVALID_ARGUMENT); see `violations`."""


class ModelNotFound(ThermostatError):
    """Another model than the served one was named (NOT_FOUND)."""


class AccessDenied(ThermostatError):
    """No or wrong credentials (UNAUTHENTICATED, PERMISSION_DENIED)."""


class Overloaded(ThermostatError):
    """The queue is full (RESOURCE_EXHAUSTED); see `retry_after`."""


class Unavailable(ThermostatError):
    """No server answers, or it starts or drains (UNAVAILABLE)."""


class DeadlineExceeded(ThermostatError):
    """The call's timeout passed (DEADLINE_EXCEEDED)."""


class Cancelled(ThermostatError):
    """The call was cancelled (CANCELLED)."""


class ServerFault(ThermostatError):
    """A fault of the server (INTERNAL, UNKNOWN, DATA_LOSS); see `incident`."""


_CLASSES: dict[grpc.StatusCode, type[ThermostatError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.FAILED_PRECONDITION: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: ModelNotFound,
    grpc.StatusCode.UNAUTHENTICATED: AccessDenied,
    grpc.StatusCode.PERMISSION_DENIED: AccessDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.INTERNAL: ServerFault,
    grpc.StatusCode.UNKNOWN: ServerFault,
    grpc.StatusCode.DATA_LOSS: ServerFault,
}


def error_from(error: grpc.RpcError) -> ThermostatError:
    """The exception for a gRPC error, sync or async, with the details of its `google.rpc.Status`."""
    code = error.code()
    message = error.details() or code.name.lower().replace("_", " ")
    return _CLASSES.get(code, ThermostatError)(code, message, _details(error.trailing_metadata() or ()))


@contextmanager
def translated() -> Iterator[None]:
    """Raise gRPC errors as this module's own."""
    try:
        yield
    except grpc.RpcError as error:
        raise error_from(error) from error


def cancelled() -> Cancelled:
    """The exception for a call that this side cancelled."""
    return Cancelled(grpc.StatusCode.CANCELLED, "the call was cancelled")


def _details(trailer: Iterable[tuple[str, str | bytes]]) -> Details:
    details = Details()
    for packed in _unpack(next((value for key, value in trailer if key == _DETAILS_KEY), b"")):
        if isinstance(packed, error_details_pb2.BadRequest):
            details.violations += [FieldViolation(each.field, each.description) for each in packed.field_violations]
        elif isinstance(packed, error_details_pb2.RetryInfo):
            details.retry_after = packed.retry_delay.ToNanoseconds() / 1e9
        elif isinstance(packed, error_details_pb2.ErrorInfo):
            details.reason, details.metadata = packed.reason, dict(packed.metadata)
        elif isinstance(packed, error_details_pb2.ResourceInfo):
            details.resource = packed.resource_name
    return details


def _unpack(serialized: str | bytes) -> Iterable[Message]:
    kinds = ("BadRequest", "RetryInfo", "ErrorInfo", "ResourceInfo")
    try:
        for packed in status_pb2.Status.FromString(serialized).details:
            kind = packed.TypeName().rpartition("google.rpc.")[2]
            if kind in kinds:
                yield getattr(error_details_pb2, kind).FromString(packed.value)
    except DecodeError:  # details are a courtesy: broken ones must not hide the error itself
        return
