"""How far a generation has come, so that it can go on where it was when its stream breaks."""

from __future__ import annotations

import time
from collections import deque

from thermostat.errors import Cancelled, Overloaded, ThermostatError, Unavailable
from thermostat.events import Event, Finished, Output, Started
from thermostat.v1.generation_pb2 import GenerateRequest
from thermostat.v1.policy_pb2 import PolicyState

_WIDEST_WINDOW = 256
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 2.0


class Progress:
    """What has been seen of one generation.

    seconds: for how long after the last event a broken stream is tried again; 0 is never. One that breaks before its
    first event is left to the channel's own tries.
    """

    def __init__(self, request: GenerateRequest, seconds: float) -> None:
        self._request = request
        self._seconds = seconds
        self._tokens = list(request.resume.token_ids)
        self._given = len(self._tokens)
        self._state = PolicyState()
        self._recent: deque[float] = deque(request.resume.recent_entropy, maxlen=_WIDEST_WINDOW)
        self._saturated_run = request.resume.saturated_run
        self._seed: int | None = None
        self._again = False
        self._heard = 0.0
        self._wait = _FIRST_WAIT

    def take(self, event: Event) -> Event | None:
        """Take in an event; what is shown of it, which is nothing of a second start."""
        self._heard, self._wait = time.monotonic(), _FIRST_WAIT
        if isinstance(event, Started):
            self._again = self._seed is not None
            self._seed = event.seed
            return None if self._again else event
        if isinstance(event, Output):
            self._read(event)
        elif isinstance(event, Finished) and self._again:
            event.usage.output_tokens = len(self._tokens) - self._given
        return event

    def wait(self, error: ThermostatError) -> float | None:
        """Seconds until the next try; None if the error is to be told."""
        left = self._heard + self._seconds - time.monotonic()
        if self._seed is None or left <= 0 or not isinstance(error, (Unavailable, Overloaded, Cancelled)):
            return None
        wait, self._wait = self._wait, min(2 * self._wait, _LONGEST_WAIT)
        return min(max(wait, error.retry_after or 0.0), left)

    def request(self) -> GenerateRequest:
        """What to send to go on."""
        request = GenerateRequest()
        request.CopyFrom(self._request)
        if self._seed is not None:
            request.seed = self._seed
        if self._tokens:
            request.resume.Clear()
            request.resume.token_ids.extend(self._tokens)
            request.resume.policy_state.CopyFrom(self._state)
            request.resume.recent_entropy.extend(self._recent)
            request.resume.saturated_run = self._saturated_run
        return request

    def _read(self, output: Output) -> None:
        for token in output.tokens:
            info = token.sampling_info
            self._tokens.append(token.token_id)
            if info.HasField("original_entropy"):
                self._recent.append(info.original_entropy)
            self._saturated_run = self._saturated_run + 1 if info.saturated else 0
            if info.HasField("policy_state"):
                self._state = info.policy_state
        if output.HasField("policy_state"):
            self._state = output.policy_state
