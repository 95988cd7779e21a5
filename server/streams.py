"""Events on their way from the engine's thread to the handlers, and what happens to a reader that is too slow."""

import asyncio
import logging

from server.engine.engine import Engine
from server.engine.events import Cause, Event, Failed

_log = logging.getLogger(__name__)

_FULL, _EMPTIED = 64, 16
"""Events that wait for a reader before its generation pauses, and before it goes on. gRPC buffers some more."""


class Stream:
    """The events of one request. At `_FULL` waiting events its generation pauses, so that a slow reader stalls only
    itself; one that reads nothing at all for `stall_seconds` then loses its generation."""

    def __init__(self, request_id: str, engine: Engine, stall_seconds: float) -> None:
        self._id = request_id
        self._engine = engine
        self._stall_seconds = stall_seconds
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._held = False
        self._timer: asyncio.TimerHandle | None = None

    def put(self, event: Event) -> None:
        """Called on the event loop."""
        self._events.put_nowait(event)
        if not self._held and self._events.qsize() >= _FULL:
            self._held = True
            self._engine.hold(self._id)
            self._watch()

    async def get(self) -> Event:
        """The next event."""
        event = await self._events.get()
        if self._held:
            self._unwatch()
            if self._events.qsize() <= _EMPTIED:
                self._held = False
                self._engine.release(self._id)
            else:
                self._watch()
        return event

    def fail(self, failed: Failed) -> None:
        """Nothing else comes any more: whoever reads is told so next."""
        self._unwatch()
        self._held = False
        self._events = _drained(self._events)
        self._events.put_nowait(failed)

    def close(self) -> None:
        """Nobody reads any more."""
        self._unwatch()

    def _watch(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._stall_seconds, self._stalled)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stalled(self) -> None:
        self._engine.cancel(self._id)
        self.fail(Failed(f"nothing was read of the stream for {self._stall_seconds:g} s", Cause.STALLED))


def _drained(queue: asyncio.Queue[Event]) -> asyncio.Queue[Event]:
    """The same queue, empty: a handler may wait on it."""
    while not queue.empty():
        queue.get_nowait()
    return queue


class Streams:
    """All streams: one call into the event loop a step, for everyone."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stall_seconds: float) -> None:
        self._loop = loop
        self._stall_seconds = stall_seconds
        self._streams: dict[str, Stream] = {}

    def open(self, request_id: str, engine: Engine) -> Stream:
        """The stream on which the events of a request will come."""
        stream = Stream(request_id, engine, self._stall_seconds)
        self._streams[request_id] = stream
        return stream

    def close(self, request_id: str) -> None:
        """Drop what still comes for a request."""
        stream = self._streams.pop(request_id, None)
        if stream is not None:
            stream.close()

    def deliver(self, events: list[tuple[str, Event]]) -> None:
        """Called on the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self._hand_out, events)
        except RuntimeError:  # the loop has closed: nobody listens any more
            _log.debug("%d events came after the end", len(events))

    def fail_all(self, failed: Failed) -> None:
        """End every stream."""
        for stream in self._streams.values():
            stream.fail(failed)

    def _hand_out(self, events: list[tuple[str, Event]]) -> None:
        for request_id, event in events:
            stream = self._streams.get(request_id)
            if stream is not None:
                stream.put(event)
