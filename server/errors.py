"""Failures as google.rpc.Status: one place, one shape, every violation at once."""

import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2

DOMAIN = "thermostat"
_MOST_BYTES = 4096
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Violation:
    """One bad field: its dotted path, and what is allowed."""

    field: str
    allowed: str


class RequestError(Exception):
    """A request that is not served, as its client is told."""

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        violations: Sequence[Violation] = (),
        retry_seconds: float | None = None,
        resource: tuple[str, str] | None = None,
        metadata: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.violations = list(violations)
        self.retry_seconds = retry_seconds
        self.resource = resource
        self.metadata = metadata or {}


def invalid(violations: Sequence[Violation]) -> RequestError:
    """INVALID_ARGUMENT with every violation."""
    told = "; ".join(f"{v.field}: {v.allowed}" for v in violations[:3])
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", told[:500], violations=violations)


def unreadable() -> RequestError:
    """INVALID_ARGUMENT for bytes that are no message of the contract."""
    message = (
        "the request cannot be read: it is no message of this method, or nests too deep, or has text that is no UTF-8"
    )
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", message)


def not_found(kind: str, name: str, served: str) -> RequestError:
    """NOT_FOUND for a resource that the server does not have."""
    message = f"{kind} {name[:100]!r} is not served here; {served} is"
    return RequestError(grpc.StatusCode.NOT_FOUND, f"{kind.upper()}_NOT_FOUND", message, resource=(kind, name[:100]))


def queue_full(message: str) -> RequestError:
    """RESOURCE_EXHAUSTED with a time to come back."""
    return RequestError(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", message, retry_seconds=1.0)


def caller_busy(message: str) -> RequestError:
    """RESOURCE_EXHAUSTED for one who has enough of the server already."""
    return RequestError(grpc.StatusCode.RESOURCE_EXHAUSTED, "CALLER_LIMIT", message, retry_seconds=1.0)


def unauthenticated() -> RequestError:
    """UNAUTHENTICATED, in the same words whether the token is absent or wrong."""
    message = "a valid token is needed, in the metadata as authorization: Bearer TOKEN"
    return RequestError(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID", message)


def permission_denied(caller: str, method: str) -> RequestError:
    """PERMISSION_DENIED for a method that a known caller may not call."""
    message = f"{caller} may not call {method}"
    return RequestError(grpc.StatusCode.PERMISSION_DENIED, "METHOD_DENIED", message, metadata={"method": method})


def stalled(message: str) -> RequestError:
    """ABORTED for a reader that does not read; its generation can be resumed."""
    return RequestError(grpc.StatusCode.ABORTED, "READER_STALLED", message)


def too_long(message: str) -> RequestError:
    """DEADLINE_EXCEEDED by the server's own limit."""
    return RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, "SERVER_TIME_LIMIT", message)


def unavailable(message: str) -> RequestError:
    """UNAVAILABLE with a time to come back."""
    return RequestError(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", message, retry_seconds=2.0)


def internal(message: str) -> RequestError:
    """INTERNAL with an incident id; the log has the rest under the same id."""
    incident = secrets.token_hex(8)
    _log.error("incident %s: %s", incident, message)
    return RequestError(
        grpc.StatusCode.INTERNAL, "INTERNAL", f"{message} (incident {incident})", metadata={"incident": incident}
    )


@asynccontextmanager
async def reporting(context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
    """Turn what is raised inside into the status of the call."""
    try:
        yield
    except RequestError as error:
        await _abort(context, error)
    except (grpc.aio.AbortError, grpc.aio.UsageError):
        raise
    except Exception as fault:
        told = internal("a fault of the server")
        _log.error("incident %s", told.metadata["incident"], exc_info=fault)
        await _abort(context, told)


async def _abort(context: grpc.aio.ServicerContext, error: RequestError) -> None:
    trailing: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", _status(error).SerializeToString())]
    if error.retry_seconds is not None:
        trailing.append(("grpc-retry-pushback-ms", str(int(1000 * error.retry_seconds))))
    await context.abort(error.code, error.message, trailing_metadata=tuple(trailing))


def _status(error: RequestError) -> status_pb2.Status:
    """The status with its details, kept under 4 KiB by dropping the last violations."""
    violations = error.violations
    while True:
        status = status_pb2.Status(code=error.code.value[0], message=error.message, details=_details(error, violations))
        if status.ByteSize() <= _MOST_BYTES or not violations:
            return status
        violations = violations[: len(violations) // 2]


def _details(error: RequestError, violations: Sequence[Violation]) -> list[Any]:
    messages: list[Message] = [details.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)]
    if violations:
        fields = [details.BadRequest.FieldViolation(field=v.field, description=v.allowed) for v in violations]
        messages.append(details.BadRequest(field_violations=fields))
    if error.retry_seconds is not None:
        retry = details.RetryInfo()
        retry.retry_delay.FromMilliseconds(int(1000 * error.retry_seconds))
        messages.append(retry)
    if error.resource is not None:
        kind, name = error.resource
        messages.append(details.ResourceInfo(resource_type=kind, resource_name=name))
    packed = []
    for message in messages:
        any_message = Any()
        any_message.Pack(message)
        packed.append(any_message)
    return packed
