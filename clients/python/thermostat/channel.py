"""How both clients connect: channel options, and the standard health service in a few bytes."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import grpc
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

_MEBIBYTE = 1024 * 1024
# Round robin, health and retries: one file for the clients of all languages. Retries are safe for Generate too: the
# server sends nothing before the first token, and after it gRPC retries no more.
_SERVICE_CONFIG = files(__package__).joinpath("service_config.json").read_text()

OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.service_config", _SERVICE_CONFIG),
    ("grpc.enable_retries", 1),
    ("grpc.max_receive_message_length", 64 * _MEBIBYTE),
    ("grpc.keepalive_time_ms", 60_000),  # finds a dead peer while a long generation waits
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
]
"""Options of every channel; those that the caller adds win."""


def tls(
    ca: str | Path | None = None, certificate: str | Path | None = None, key: str | Path | None = None
) -> grpc.ChannelCredentials:
    """Credentials for TLS from PEM files.

    ca           Authorities that the server's certificate must come from. Default: those that gRPC brings along.
    certificate  This client's own chain, and its `key`, where the server asks for one.
    """

    def read(path: str | Path | None) -> bytes | None:
        return None if path is None else Path(path).read_bytes()

    return grpc.ssl_channel_credentials(read(ca), read(key), read(certificate))


def call_metadata(metadata: Sequence[tuple[str, str]], token: str | None) -> tuple[tuple[str, str], ...]:
    """What goes with every call."""
    return (*metadata, ("authorization", f"Bearer {token}")) if token else tuple(metadata)


# grpc.health.v1 without its package: HealthCheckRequest is one string and HealthCheckResponse one enum, each field 1,
# so on the wire they are a StringValue and an Int32Value.
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
HEALTH_SERVING = 1


def health_request() -> bytes:
    """HealthCheckRequest for the whole server."""
    return StringValue().SerializeToString()


def health_status(serialized: bytes) -> int:
    """The status of a HealthCheckResponse."""
    return Int32Value.FromString(serialized).value
