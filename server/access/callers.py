"""Who may call: bearer tokens with a name, what each may call, and how much at once. Knows no grpc.

The file is TOML, one table a caller; the table's name stands in the log.

    [alice]
    token = "at least 16 characters"        # or sha256 = "...", the token's SHA-256 in hexadecimal
    max_running = 4                         # generations at once; more wait. Default: no limit of its own
    max_waiting = 16                        # more than these are refused. Default 64
    services = ["thermostat.v1.ModelService"]    # what it may call. Default: everything
"""

import asyncio
import hashlib
import hmac
import tomllib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LEAST_TOKEN = 16
MOST_WAITING = 64


class TooMany(Exception):
    """The caller has as many generations running and waiting as it may have."""


@dataclass(slots=True)
class Gate:
    """Lets at most `most` in at once (None: any number); at most `most_waiting` more wait, first come first served."""

    most: int | None = None
    most_waiting: int = MOST_WAITING
    waiting: int = 0
    _places: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._places = asyncio.Semaphore(self.most or 1)

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """A place, once there is one. TooMany if too many wait already."""
        if self.most is None:
            yield
            return
        if self._places.locked() and self.waiting >= self.most_waiting:
            raise TooMany(f"{self.most} generations of this caller run and {self.waiting} wait already")
        self.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._places.release()


@dataclass(frozen=True, slots=True)
class Caller:
    """One who may call. digest: SHA-256 of the token. services: full names; None means all."""

    name: str
    digest: bytes
    services: frozenset[str] | None = None
    gate: Gate = field(default_factory=Gate, compare=False)

    def may_call(self, method: str) -> bool:
        """Whether it may call a method, as "/service/name"."""
        return self.services is None or method.split("/")[1] in self.services


class Callers:
    """All who may call."""

    def __init__(self, callers: list[Caller]) -> None:
        self.callers = callers

    def find(self, token: str) -> Caller | None:
        """Whose token it is. Takes the same time whether and where it is found: all are compared, as digests."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found = None
        for caller in self.callers:
            if hmac.compare_digest(caller.digest, digest):
                found = caller
        return found


def read_callers(path: Path, before: Callers | None = None) -> Callers:
    """The callers of a file. Those whose limits are as `before` keep their place in the count.

    OSError if it cannot be read; ValueError that names the table and what is allowed.
    """
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    if not tables:
        raise ValueError(f"{path} names no caller")
    callers = [_read_caller(name, table) for name, table in tables.items()]
    if len({caller.digest for caller in callers}) < len(callers):
        raise ValueError(f"{path}: two callers have the same token")
    gates = {caller.name: caller.gate for caller in before.callers} if before else {}
    return Callers([_kept(caller, gates.get(caller.name)) for caller in callers])


def _kept(caller: Caller, gate: Gate | None) -> Caller:
    if gate is None or (gate.most, gate.most_waiting) != (caller.gate.most, caller.gate.most_waiting):
        return caller
    return Caller(caller.name, caller.digest, caller.services, gate)


def _read_caller(name: str, table: Any) -> Caller:
    known = {"token", "sha256", "max_running", "max_waiting", "services"}
    if not isinstance(table, dict) or not table.keys() <= known:
        raise ValueError(f"[{name}] must be a table with {', '.join(sorted(known))} and nothing else")
    services = table.get("services")
    if services is not None and not (isinstance(services, list) and all(isinstance(s, str) for s in services)):
        raise ValueError(f"[{name}] services must be a list of full names, such as thermostat.v1.ModelService")
    gate = Gate(_count(name, table, "max_running", 1, None), _count(name, table, "max_waiting", 0, MOST_WAITING) or 0)
    return Caller(name, _digest(name, table), None if services is None else frozenset(services), gate)


def _digest(name: str, table: Mapping[str, Any]) -> bytes:
    token, digest = table.get("token"), table.get("sha256")
    if isinstance(token, str) and digest is None and len(token) >= LEAST_TOKEN:
        return hashlib.sha256(token.encode()).digest()
    if isinstance(digest, str) and token is None and len(digest) == 64:
        return bytes.fromhex(digest)
    raise ValueError(
        f"[{name}] must have either token, of at least {LEAST_TOKEN} characters, or sha256, of 64 hexadecimal digits"
    )


def _count(name: str, table: Mapping[str, Any], key: str, least: int, default: int | None) -> int | None:
    value = table.get(key, default)
    if value is not None and (type(value) is not int or value < least):
        raise ValueError(f"[{name}] {key} must be a whole number, at least {least}")
    return value
