"""What other threads ask of the engine, and how much of it may be asked at once. Knows neither torch nor grpc."""

import enum
import threading
from collections import Counter, deque
from collections.abc import Iterator

from server.engine.request import GenerationRequest


class QueueFull(Exception):
    """Nothing more can wait, or nothing more of this client; the request was not taken."""


class EngineDown(Exception):
    """The engine does not run, or no longer."""


class Verb(enum.Enum):
    """What to do with a request that the engine has."""

    CANCEL = "cancel"
    HOLD = "hold"
    RELEASE = "release"


class Displace(str):
    """A client whose last waiting request makes room for another's."""


Message = GenerationRequest | tuple[Verb, str] | Displace


class Inbox:
    """Messages to the engine thread, from any thread, and the count of what each client has in the engine.

    capacity: most requests that run and wait. per_client: most of one client; None is no limit of its own. When all is
    taken a client still gets in, at the cost of one that has at least two more than it.
    """

    def __init__(self, capacity: int, per_client: int | None = None) -> None:
        self._capacity = capacity
        self._per_client = per_client
        self._messages: deque[Message] = deque()
        self._lock = threading.Lock()
        self._live: Counter[str] = Counter()
        self._displacing = 0
        self._open = False
        self.wake = threading.Event()

    @property
    def open(self) -> bool:
        """Whether requests are taken."""
        return self._open

    @open.setter
    def open(self, value: bool) -> None:
        with self._lock:
            self._open = value

    @property
    def live(self) -> int:
        """Requests that run and wait."""
        return self._live.total()

    def submit(self, request: GenerationRequest) -> None:
        """Take a request. QueueFull or EngineDown if it is not taken."""
        with self._lock:
            if not self._open:
                raise EngineDown("the engine does not run")
            refusal = self._refusal(request.client)
            if refusal is not None:
                raise QueueFull(refusal)
            if self._live.total() - self._displacing >= self._capacity:
                self._displacing += 1
                self._messages.append(Displace(max(self._live, key=lambda name: self._live[name])))
            self._live[request.client] += 1
            self._messages.append(request)
        self.wake.set()

    def tell(self, verb: Verb, request_id: str) -> None:
        """Pass on a wish."""
        self._messages.append((verb, request_id))
        self.wake.set()

    def full(self, client: str) -> bool:
        """Whether `submit` would refuse a request of this client now."""
        with self._lock:
            return self._refusal(client) is not None

    def forget(self, client: str) -> None:
        """One request less of this client."""
        with self._lock:
            self._live[client] -= 1
            if not self._live[client]:
                del self._live[client]

    def displaced(self) -> None:
        """A `Displace` has been seen to."""
        with self._lock:
            self._displacing -= 1

    def messages(self) -> Iterator[Message]:
        """What has come, in order. For the engine thread."""
        while self._messages:
            yield self._messages.popleft()

    def _refusal(self, client: str) -> str | None:
        """Why a request of this client cannot be taken; None if it can."""
        mine, live = self._live[client], self._live.total()
        if self._per_client is not None and mine >= self._per_client:
            return f"{mine} generations of this client run or wait already"
        if live - self._displacing >= self._capacity and max(self._live.values(), default=0) < mine + 2:
            return f"{live} generations run or wait already"
        return None
