"""One generation in progress: its request, its place, what it has drawn, and the events that follow."""

import enum
import time
from dataclasses import replace

from adaptive.info import Choice, SamplingInfo
from adaptive.penalties import History
from adaptive.policies import Course
from adaptive.rows import RowSettings
from adaptive.signals import Monitor, Signal
from server.engine.detokenizer import Detokenizer, TokenBytes
from server.engine.events import Drawn, Event, Finished, FinishReason, Record, Started
from server.engine.request import GenerationRequest, Resume
from server.engine.stopping import StopMatcher


class Stage(enum.Enum):
    """Where a generation is. Only the scheduler moves it."""

    WAITING = "waiting"
    PREFILLING = "prefilling"
    DECODING = "decoding"
    PAUSED = "paused"
    """Its reader is too slow: it keeps its KV memory, and its place in the batch is free for others."""
    DONE = "done"


class Generation:
    """A request in the engine. Owned by the engine thread.

    blocks: names of its prompt's blocks, in the order of the prompt, if the prefix cache is in use (`engine.prefix`).
    cached: tokens of the prompt that were taken from there.
    turned: whether the next token is drawn under another policy than the last; the engine sees to it and clears it.
    held: whether it should pause, because its reader is too slow.
    """

    def __init__(
        self, request: GenerationRequest, context_length: int, eos: frozenset[int], token_bytes: TokenBytes
    ) -> None:
        self.request = request
        self.stage = Stage.WAITING
        self.prefilled = 0
        self.blocks: list[bytes] = []
        self.cached = 0
        self.tokens = list(request.resume.tokens)
        self.turned = False
        self.held = False
        room = context_length - len(request.prompt)
        self.limit = min(request.stopping.max_output_tokens, room)
        self._ends_by = (
            FinishReason.MAX_OUTPUT_TOKENS
            if request.stopping.max_output_tokens <= room
            else FinishReason.CONTEXT_LENGTH
        )
        self._eos = frozenset() if request.stopping.ignore_eos else eos
        self._stop_tokens = frozenset(request.stopping.stop_token_ids)
        self._token_bytes = token_bytes
        self._detokenizer = Detokenizer()
        self._matcher = StopMatcher(request.stopping.stop_sequences)
        self._course = Course(request.policy, request.resume.state)
        self._monitor = Monitor(request.rules, request.resume.recent_entropy, request.resume.saturated_run)
        self._record = Record()
        self._admitted = self._first = self._last = request.arrival
        self._replay()

    @property
    def id(self) -> str:
        """The request's id."""
        return self.request.id

    @property
    def given(self) -> int:
        """Tokens that are computed before the next is drawn: the prompt, and those drawn so far."""
        return len(self.request.prompt) + len(self.tokens)

    @property
    def output_tokens(self) -> int:
        """Tokens drawn, those before a resume included."""
        return len(self.tokens)

    @property
    def kv_tokens(self) -> int:
        """Tokens of KV memory that it can come to need: all but the last one drawn is read again."""
        return len(self.request.prompt) + self.limit - 1

    @property
    def settings(self) -> RowSettings:
        """How its next token is drawn."""
        request = self.request
        return RowSettings(
            policy=self._course.policy,
            filters=request.filters,
            seed=request.seed,
            position=len(self.tokens),
            candidates=request.candidates,
            state=self._course.state,
            penalties=request.penalties,
            bias=request.bias,
            history=History(request.prompt, tuple(self.tokens), request.breakers),
        )

    @property
    def suppressed(self) -> list[int]:
        """Tokens that may not be drawn now: the ends, before min_output_tokens."""
        if self.output_tokens >= self.request.stopping.min_output_tokens:
            return []
        return sorted(self._eos | self._stop_tokens)

    def foreseeable(self, tokens: int) -> bool:
        """Whether so many more tokens can be computed before the host knows the first: none of them can change how the
        others are drawn. Should one be the last, the others are dropped."""
        early = self.output_tokens < self.request.stopping.min_output_tokens
        steered = early or self.request.form is not None or self._course.phased or bool(self.request.rules)
        return not steered and self.output_tokens + tokens <= self.limit

    def admitted(self) -> None:
        """Note that it has a place in the batch."""
        self._admitted = time.monotonic()

    def take(self, info: SamplingInfo, choices: list[Choice]) -> list[Event]:
        """Take in a drawn token; the events it causes, the last of them Finished if it was the last token."""
        events: list[Event] = self._started()
        self.tokens.append(info.token_id)
        if self.request.form is not None:
            self.request.form.advance(info.token_id)
        piece = "" if self._ends(info.token_id) else self._detokenizer.feed(self._token_bytes(info.token_id))
        reason, matched, text = self._judge(info.token_id, piece)
        drawn = self._drawn(info, choices, text, piece)
        if reason is None and any(signal.action == "stop" for signal in drawn.signals):
            reason = FinishReason.ENTROPY_STOP
        events.append(drawn)
        if reason is not None:
            rest = "" if reason is FinishReason.STOP_SEQUENCE else self._rest()
            if isinstance(rest, tuple):  # the very last characters completed a stop string
                rest, matched = rest
                reason = FinishReason.STOP_SEQUENCE
            events.append(self._finished(reason, matched, rest))
        return events

    def _started(self) -> list[Event]:
        self._last = time.monotonic()
        if len(self._record.original_entropy):
            return []
        self._first = self._last
        return [Started(self.limit, self._admitted - self.request.arrival, self.cached)]

    def _drawn(self, info: SamplingInfo, choices: list[Choice], text: str, read: str) -> Drawn:
        """The event of a token, and what the course and the monitor make of it. read: the text that markers see."""
        self._record.add(info)
        signals = self._monitor.take(info)
        phase = self._course.phase if self._course.phased else None
        self.turned = self._course.take(info.state, info.original_entropy, read) or self._turns(signals)
        candidates = choices[: self.request.candidates]
        return Drawn(len(self.tokens) - 1, info, candidates, text, self._course.report(), phase, signals)

    def _turns(self, signals: list[Signal]) -> bool:
        return any(signal.action == "next_phase" for signal in signals) and self._course.advance()

    def _replay(self) -> None:
        """Bring text, stop strings and markers to where the tokens of a resume had brought them."""
        pieces = [self._detokenizer.feed(self._token_bytes(token)) for token in self.tokens]
        for piece in pieces[self.request.stopping.min_output_tokens :]:
            self._matcher.feed(piece)
        self._course.replay("".join(pieces[max(0, len(pieces) - self._course.tokens) :]))

    @property
    def _late(self) -> bool:
        """Whether min_output_tokens no longer holds the ends off."""
        return self.output_tokens > self.request.stopping.min_output_tokens

    def _ends(self, token: int) -> bool:
        return token in self._eos or (token in self._stop_tokens and self._late)

    def _judge(self, token: int, piece: str) -> tuple[FinishReason | None, str | int | None, str]:
        """(why it ends here or None, what matched, the text that may be shown). piece: the text of the token."""
        stopping = self.request.stopping
        if self._ends(token):
            return FinishReason.EOS if token in self._eos else FinishReason.STOP_TOKEN, token, ""
        text = piece
        if self._late:
            text, stop = self._matcher.feed(piece)
            if stop is not None:
                return FinishReason.STOP_SEQUENCE, stop, text
        if self.request.form is not None and self.request.form.complete:
            return FinishReason.EOS, None, text
        if self.output_tokens >= self.limit:
            return self._ends_by, None, text
        if stopping.time_limit is not None and self._last - self.request.arrival >= stopping.time_limit:
            return FinishReason.TIME_LIMIT, None, text
        return None, None, text

    def _rest(self) -> str | tuple[str, str]:
        """Text still held back at the end; with the stop string, if an unfinished character completes one."""
        text, stop = self._matcher.feed(self._detokenizer.flush())
        return (text, stop) if stop is not None else text + self._matcher.flush()

    def _finished(self, reason: FinishReason, matched: str | int | None, text: str) -> Finished:
        scored = reason is FinishReason.SCORED
        return Finished(
            reason=reason,
            matched=matched,
            text=text,
            prompt_tokens=len(self.request.prompt) - (len(self._record.surprisal) if scored else 0),
            output_tokens=len(self._record.surprisal),
            queue_seconds=self._admitted - self.request.arrival,
            prefill_seconds=self._first - self._admitted,
            decode_seconds=self._last - self._first,
            record=self._record,
            resume=None if scored else self._cut(),
        )

    def _cut(self) -> Resume:
        monitor = self._monitor
        return Resume(tuple(self.tokens), self._course.report(), tuple(monitor.recent), monitor.saturated_run)


class Scoring(Generation):
    """A text that is scored: its tokens are given, not drawn. `tokens` are those scored so far."""

    def __init__(
        self, request: GenerationRequest, context_length: int, eos: frozenset[int], token_bytes: TokenBytes
    ) -> None:
        super().__init__(request, context_length, eos, token_bytes)
        assert request.scored_from is not None
        self.first = request.scored_from
        self.limit = len(request.prompt) - self.first
        for token in request.prompt[: self.first]:
            self._detokenizer.feed(token_bytes(token))

    @property
    def given(self) -> int:
        return len(self.request.prompt)

    @property
    def kv_tokens(self) -> int:
        return len(self.request.prompt)

    @property
    def sequential(self) -> bool:
        """Whether a step depends on the one before it: the policy has state or phases, or a penalty counts."""
        return self._course.phased or bool(self._course.state) or self.request.penalties.active

    @property
    def settings(self) -> RowSettings:
        history = History(self.request.prompt[: self.first], tuple(self.tokens), self.request.breakers)
        return replace(super().settings, history=history)

    def take(self, info: SamplingInfo, choices: list[Choice]) -> list[Event]:
        """Take in the next token of the text, scored."""
        events = self._started()
        self.tokens.append(info.token_id)
        text = self._detokenizer.feed(self._token_bytes(info.token_id))
        events.append(self._drawn(info, choices, text, text))
        if self.first + len(self.tokens) == len(self.request.prompt):
            events.append(self._finished(FinishReason.SCORED, None, self._detokenizer.flush()))
        return events
