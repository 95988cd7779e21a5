"""Who waits, who runs, and what the next step does. Knows neither torch nor grpc."""

from collections import deque
from dataclasses import dataclass, field

from server.engine.generation import Generation, Scoring, Stage


@dataclass(frozen=True, slots=True)
class Limits:
    """rows: most generations in the batch. kv_tokens: the KV budget. chunk: most prompt tokens of a step."""

    rows: int
    kv_tokens: int
    chunk: int


SCORED_AT_ONCE = 64
"""Most tokens of a text that a step scores; fewer, where each has to wait for the one before it."""
SCORED_IN_SEQUENCE = 16
REPLAYED_AT_ONCE = 32
"""Most tokens of a resume that a step computes: each alone, as it was computed when it was drawn."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The part of a prompt, with the tokens of a resume after it, that the next step computes. Parts begin at multiples
    of the chunk size whatever else runs, so that a prompt is always computed in the same pieces."""

    generation: Generation
    start: int
    stop: int

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens themselves."""
        prompt = self.generation.request.prompt
        if self.replays:
            return self.generation.request.resume.tokens[self.start - len(prompt) : self.stop - len(prompt)]
        return prompt[self.start : self.stop]

    @property
    def replays(self) -> bool:
        """Whether these are tokens that had been drawn."""
        return self.start >= len(self.generation.request.prompt)

    @property
    def completes(self) -> bool:
        """Whether the prompt is complete with it, so that a token can be drawn."""
        return self.stop == self.generation.given

    @property
    def scored(self) -> range:
        """For a text that is scored: the positions whose logits tell of the next token."""
        if not isinstance(self.generation, Scoring):
            return range(0)
        return range(max(self.start, self.generation.first - 1), min(self.stop, self.generation.given - 1))


@dataclass(slots=True)
class Plan:
    """What the next step does: one token for each of `decoding`, and pieces of prompts."""

    decoding: list[Generation] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.decoding or self.chunks)


class Scheduler:
    """First come, first served. A generation is admitted when a row is free and all the KV memory that it can come
    to need; so nothing that runs is ever put back."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.waiting: deque[Generation] = deque()
        self.prefilling: list[Generation] = []
        self.decoding: list[Generation] = []
        self.kv_tokens = 0

    @property
    def running(self) -> int:
        """Generations that hold a row."""
        return len(self.prefilling) + len(self.decoding)

    def add(self, generation: Generation) -> None:
        """Queue a generation."""
        self.waiting.append(generation)

    def admit(self) -> list[Generation]:
        """Give rows to those that wait, in their order, while there is room; the ones admitted."""
        admitted = []
        while self.waiting and self.running < self.limits.rows:
            if self.kv_tokens + self.waiting[0].kv_tokens > self.limits.kv_tokens:
                break
            generation = self.waiting.popleft()
            generation.stage = Stage.PREFILLING
            generation.admitted()
            self.kv_tokens += generation.kv_tokens
            self.prefilling.append(generation)
            admitted.append(generation)
        return admitted

    def plan(self) -> Plan:
        """The next step: everyone who decodes, and as many prompt pieces as one chunk's worth of tokens holds."""
        plan = Plan(list(self.decoding))
        room = self.limits.chunk
        for generation in self.prefilling:
            chunk = self._next_chunk(generation)
            if chunk.stop - chunk.start > room:
                break
            room -= chunk.stop - chunk.start
            plan.chunks.append(chunk)
        # What draws comes before what is scored, as the rows of the sampler do.
        plan.chunks.sort(key=lambda chunk: isinstance(chunk.generation, Scoring))
        return plan

    def _next_chunk(self, generation: Generation) -> Chunk:
        start, prompt = generation.prefilled, len(generation.request.prompt)
        size = self.limits.chunk
        if isinstance(generation, Scoring):
            size = min(size, SCORED_IN_SEQUENCE if generation.sequential else SCORED_AT_ONCE)
        if start < prompt:
            return Chunk(generation, start, min(start + size, prompt))
        return Chunk(generation, start, min(start + min(REPLAYED_AT_ONCE, size), generation.given))

    def advance(self, chunk: Chunk) -> None:
        """Note that a prompt piece has been computed; a complete prompt starts to decode. What is scored does not: it
        ends with its last chunk."""
        chunk.generation.prefilled = chunk.stop
        if chunk.completes and not isinstance(chunk.generation, Scoring):
            chunk.generation.stage = Stage.DECODING
            self.prefilling.remove(chunk.generation)
            self.decoding.append(chunk.generation)

    def retire(self, generation: Generation) -> None:
        """Free what a generation holds, wherever it is."""
        if generation.stage is Stage.WAITING:
            self.waiting.remove(generation)
        elif generation.stage is not Stage.DONE:
            (self.prefilling if generation.stage is Stage.PREFILLING else self.decoding).remove(generation)
            self.kv_tokens -= generation.kv_tokens
        generation.stage = Stage.DONE
