"""Who waits, who runs, and what the next step does. Knows neither torch nor grpc."""

from collections import Counter, deque
from dataclasses import dataclass, field

from server.engine.generation import Generation, Scoring, Stage


@dataclass(frozen=True, slots=True)
class Limits:
    """rows: most generations in the batch. kv_tokens: the KV budget. chunk: most prompt tokens of a step.
    prefix_cache: whether prompts that begin alike share what is computed of their beginning."""

    rows: int
    kv_tokens: int
    chunk: int
    prefix_cache: bool = True

    @property
    def block(self) -> int:
        """Prompt tokens that are computed together, or are a multiple of these. Blocks begin at its multiples whatever
        else runs, so that prompts that begin alike share whole ones, and a prompt is always computed in the same pieces
        where its bits depend on them."""
        return min(_BLOCK, self.chunk)


_BLOCK = 64
SCORED_AT_ONCE = 64
"""Most tokens of a text that a step scores; fewer, where each has to wait for the one before it."""
SCORED_IN_SEQUENCE = 16
REPLAYED_AT_ONCE = 32
"""Most tokens of a resume that a step computes: each alone, as it was computed when it was drawn."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The part of a prompt, with the tokens of a resume after it, that the next step computes."""

    generation: Generation
    start: int
    stop: int

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens themselves."""
        prompt = self.generation.request.prompt
        if self.replays:
            return tuple(self.generation.tokens[self.start - len(prompt) : self.stop - len(prompt)])
        return prompt[self.start : self.stop]

    def names(self, block: int) -> list[bytes]:
        """The blocks of the prompt that it computes, by which others may know them."""
        return self.generation.blocks[self.start // block : self.stop // block]

    @property
    def replays(self) -> bool:
        """Whether these are tokens that had been drawn: of a resume, or the last one before a pause."""
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
    """Who runs, and who is next. A generation is admitted when a row is free and all the KV memory that it can come to
    need; so nothing that runs is ever put back. Of those that wait, the client with the fewest running comes first, and
    each client's come in their order; nobody overtakes a large one whose turn it is."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.waiting: dict[str, deque[Generation]] = {}
        self.paused: list[Generation] = []
        self.prefilling: list[Generation] = []
        self.decoding: list[Generation] = []
        self.kv_tokens = 0
        self._running: Counter[str] = Counter()

    @property
    def running(self) -> int:
        """Generations that hold a row."""
        return len(self.prefilling) + len(self.decoding)

    def add(self, generation: Generation) -> None:
        """Queue a generation."""
        self.waiting.setdefault(generation.request.client, deque()).append(generation)

    def admit(self) -> list[Generation]:
        """Give rows to those that return from a pause, then to those that wait, while there is room; the new ones."""
        self._pause_and_return()
        admitted = []
        while self.running < self.limits.rows and self.waiting:
            client = min(self.waiting, key=lambda name: (self._running[name], self.waiting[name][0].request.arrival))
            generation = self.waiting[client][0]
            if self.kv_tokens + generation.kv_tokens > self.limits.kv_tokens:
                break
            self._unqueue(generation)
            generation.admitted()
            self.kv_tokens += generation.kv_tokens
            self._running[client] += 1
            self._start(generation)
            admitted.append(generation)
        return admitted

    def plan(self) -> Plan:
        """The next step: everyone who decodes, and as many prompt pieces as one chunk's worth of tokens holds. A prompt
        that would compute what another computes waits a step, and finds it in the prefix cache."""
        plan = Plan(list(self.decoding))
        room = self.limits.chunk
        coming: set[bytes] = set()
        for generation in self.prefilling:
            if generation.held:
                continue
            chunk = self._next_chunk(generation, room)
            names = chunk.names(self.limits.block)
            if not coming.isdisjoint(names):
                continue
            if not room >= chunk.stop - chunk.start > 0:
                break
            coming.update(names)
            room -= chunk.stop - chunk.start
            plan.chunks.append(chunk)
        # What draws comes before what is scored, as the rows of the sampler do.
        plan.chunks.sort(key=lambda chunk: isinstance(chunk.generation, Scoring))
        return plan

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
            self._unqueue(generation)
        elif generation.stage is not Stage.DONE:
            for place in (self.prefilling, self.decoding, self.paused):
                if generation in place:
                    place.remove(generation)
            self.kv_tokens -= generation.kv_tokens
            self._running[generation.request.client] -= 1
            if not self._running[generation.request.client]:
                del self._running[generation.request.client]
        generation.stage = Stage.DONE

    def _pause_and_return(self) -> None:
        """Take those that are held out of the batch. One no longer held comes back as soon as a row is free; its last
        token is computed as if it were the last of a resume."""
        for generation in [g for g in self.decoding if g.held]:
            self.decoding.remove(generation)
            self.paused.append(generation)
            generation.stage = Stage.PAUSED
        for generation in [g for g in self.paused if not g.held]:
            if self.running < self.limits.rows:
                self.paused.remove(generation)
                generation.prefilled = generation.given - 1
                self._start(generation)

    def _start(self, generation: Generation) -> None:
        generation.stage = Stage.PREFILLING
        self.prefilling.append(generation)

    def _unqueue(self, generation: Generation) -> None:
        client = generation.request.client
        self.waiting[client].remove(generation)
        if not self.waiting[client]:
            del self.waiting[client]

    def _next_chunk(self, generation: Generation, room: int) -> Chunk:
        """Its next part: whole blocks of a prompt as far as there is room, or its rest; none or too much if there is no
        room for its next."""
        start, prompt = generation.prefilled, len(generation.request.prompt)
        if isinstance(generation, Scoring):
            size = min(self.limits.chunk, SCORED_IN_SEQUENCE if generation.sequential else SCORED_AT_ONCE)
            return Chunk(generation, start, min(start + size, prompt))
        if start < prompt:
            block = self.limits.block
            return Chunk(
                generation, start, min(start + room // block * block, prompt) if prompt - start > room else prompt
            )
        return Chunk(generation, start, min(start + min(REPLAYED_AT_ONCE, self.limits.chunk), generation.given))
