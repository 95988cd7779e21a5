"""The engine as all others know it. The one on this machine's model: server/engine/local.py."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from server.engine.events import Event
from server.engine.request import GenerationRequest

Deliver = Callable[[list[tuple[str, Event]]], None]
"""Takes all events of a step, with the ids of their requests. Called on the engine's thread; must not block."""


class TooLarge(Exception):
    """The request could never be admitted: it can need more KV memory than there is."""


@dataclass(frozen=True, slots=True)
class State:
    """What the engine is doing now."""

    alive: bool
    running: int
    waiting: int
    kv_tokens: int
    steps: int


class Engine(Protocol):
    """All that the service knows of an engine."""

    def submit(self, request: GenerationRequest) -> None:
        """Take a request; its events follow. QueueFull, TooLarge or EngineDown if it is not taken."""

    def cancel(self, request_id: str) -> None:
        """Forget a request, wherever it is, within one step. No event follows. Unknown ids are ignored."""

    def hold(self, request_id: str) -> None:
        """Let a generation pause within one step, until `release`. Unknown ids are ignored."""

    def release(self, request_id: str) -> None:
        """Let it go on."""

    def full(self, client: str) -> bool:
        """Whether `submit` would refuse a request of this client now."""

    def state(self) -> State:
        """What the engine is doing now."""
