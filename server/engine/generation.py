"""One generation in progress: its request, its place, what it has drawn, and the events that follow."""

import enum
import time

from adaptive.info import Choice, SamplingInfo
from adaptive.sampler import RowSettings
from server.engine.detokenizer import Detokenizer, TokenBytes
from server.engine.events import Drawn, Event, Finished, FinishReason, Record, Started
from server.engine.request import GenerationRequest
from server.engine.stopping import StopMatcher


class Stage(enum.Enum):
    """Where a generation is. Only the scheduler moves it."""

    WAITING = "waiting"
    PREFILLING = "prefilling"
    DECODING = "decoding"
    DONE = "done"


class Generation:
    """A request in the engine. Owned by the engine thread."""

    def __init__(self, request: GenerationRequest, context_length: int, eos: frozenset[int]) -> None:
        self.request = request
        self.stage = Stage.WAITING
        self.prefilled = 0
        self.output_tokens = 0
        room = context_length - len(request.prompt)
        self.limit = min(request.stopping.max_output_tokens, room)
        self._ends_by = (
            FinishReason.MAX_OUTPUT_TOKENS
            if request.stopping.max_output_tokens <= room
            else FinishReason.CONTEXT_LENGTH
        )
        self._eos = frozenset() if request.stopping.ignore_eos else eos
        self._stop_tokens = frozenset(request.stopping.stop_token_ids)
        self._detokenizer = Detokenizer()
        self._matcher = StopMatcher(request.stopping.stop_sequences)
        self._record = Record()
        self._admitted = self._first = self._last = request.arrival

    @property
    def id(self) -> str:
        """The request's id."""
        return self.request.id

    @property
    def kv_tokens(self) -> int:
        """Tokens of KV memory that it can come to need: all but the last one drawn is read again."""
        return len(self.request.prompt) + self.limit - 1

    @property
    def settings(self) -> RowSettings:
        """How its tokens are drawn."""
        request = self.request
        return RowSettings(request.policy, request.filters, request.seed, candidates=request.candidates)

    @property
    def suppressed(self) -> list[int]:
        """Tokens that may not be drawn now: the ends, before min_output_tokens."""
        if self.output_tokens >= self.request.stopping.min_output_tokens:
            return []
        return sorted(self._eos | self._stop_tokens)

    def admitted(self) -> None:
        """Note that it has a place in the batch."""
        self._admitted = time.monotonic()

    def take(self, info: SamplingInfo, choices: list[Choice], token_bytes: TokenBytes) -> list[Event]:
        """Take in a drawn token; the events it causes, the last of them Finished if it was the last token."""
        events: list[Event] = []
        self._last = time.monotonic()
        if self.output_tokens == 0:
            self._first = self._last
            events.append(Started(self.limit, self._admitted - self.request.arrival))
        index = self.output_tokens
        self.output_tokens += 1
        self._record.add(info)
        reason, matched, text = self._judge(info.token_id, token_bytes)
        events.append(Drawn(index, info, choices[: self.request.candidates], text))
        if reason is not None:
            rest = "" if reason is FinishReason.STOP_SEQUENCE else self._rest()
            if isinstance(rest, tuple):  # the very last characters completed a stop string
                rest, matched = rest
                reason = FinishReason.STOP_SEQUENCE
            events.append(self._finished(reason, matched, rest))
        return events

    def _judge(self, token: int, token_bytes: TokenBytes) -> tuple[FinishReason | None, str | int | None, str]:
        """(why it ends here or None, what matched, the text that may be shown)."""
        if token in self._eos:
            return FinishReason.EOS, token, ""
        if token in self._stop_tokens and self.output_tokens > self.request.stopping.min_output_tokens:
            return FinishReason.STOP_TOKEN, token, ""
        text = self._detokenizer.feed(token_bytes(token))
        if self.output_tokens > self.request.stopping.min_output_tokens:
            text, stop = self._matcher.feed(text)
            if stop is not None:
                return FinishReason.STOP_SEQUENCE, stop, text
        if self.output_tokens >= self.limit:
            return self._ends_by, None, text
        limit = self.request.stopping.time_limit
        if limit is not None and self._last - self.request.arrival >= limit:
            return FinishReason.TIME_LIMIT, None, text
        return None, None, text

    def _rest(self) -> str | tuple[str, str]:
        """Text still held back at the end; with the stop string, if an unfinished character completes one."""
        text, stop = self._matcher.feed(self._detokenizer.flush())
        return (text, stop) if stop is not None else text + self._matcher.flush()

    def _finished(self, reason: FinishReason, matched: str | int | None, text: str) -> Finished:
        return Finished(
            reason=reason,
            matched=matched,
            text=text,
            prompt_tokens=len(self.request.prompt),
            output_tokens=self.output_tokens,
            queue_seconds=self._admitted - self.request.arrival,
            prefill_seconds=self._first - self._admitted,
            decode_seconds=self._last - self._first,
            record=self._record,
        )
