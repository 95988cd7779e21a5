"""The engine: one thread that owns the model and decodes all generations together, step by step."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

import adaptive
from adaptive import Rows
from server.engine.batch import Batch, Draw
from server.engine.detokenizer import TokenBytes
from server.engine.engine import Deliver, State, TooLarge
from server.engine.events import Cause, Event, Failed, Finished
from server.engine.generation import Generation, Scoring, Stage
from server.engine.inbox import Displace, Inbox, Verb
from server.engine.kv_cache import RowCache
from server.engine.model import Model, Piece
from server.engine.prefix import PrefixCache, block_names
from server.engine.request import FormError, GenerationRequest
from server.engine.scheduler import Chunk, Limits, Plan, Scheduler

_log = logging.getLogger(__name__)


class LocalEngine:
    """The engine on this machine's model. All but `start` and `stop` may be called from any thread."""

    def __init__(
        self,
        model: Model,
        token_bytes: TokenBytes,
        limits: Limits,
        max_queue: int,
        deliver: Deliver,
        ended: Callable[[], None] = lambda: None,
        max_per_client: int | None = None,
    ) -> None:
        self._model = model
        self._token_bytes = token_bytes
        self._deliver = deliver
        self._ended = ended
        self._scheduler = Scheduler(limits)
        self._inbox = Inbox(limits.rows + max_queue, max_per_client)
        self._stopping = False
        self._busy_since: float | None = None
        self._steps = 0
        # Below: the engine thread's own.
        self._generations: dict[str, Generation] = {}
        self._caches: dict[str, RowCache] = {}
        self._prefixes = PrefixCache(limits.block)
        self._batch = Batch(model)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the engine thread."""
        self._inbox.open = True
        self._thread.start()

    def stop(self, seconds: float | None = None) -> bool:
        """End the engine thread after the step in progress; what is unfinished fails. Whether it ended in time."""
        self._stopping = True
        self._inbox.wake.set()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def submit(self, request: GenerationRequest) -> None:
        room = self._model.context_length - len(request.prompt)
        room = 1 if request.scored_from is not None else room
        need = len(request.prompt) + min(request.stopping.max_output_tokens, room) - 1
        if need > self._scheduler.limits.kv_tokens:
            raise TooLarge(f"it can need {need} tokens of KV memory; there are {self._scheduler.limits.kv_tokens}")
        self._inbox.submit(request)

    def full(self, client: str) -> bool:
        return self._inbox.full(client)

    def cancel(self, request_id: str) -> None:
        self._inbox.tell(Verb.CANCEL, request_id)

    def hold(self, request_id: str) -> None:
        self._inbox.tell(Verb.HOLD, request_id)

    def release(self, request_id: str) -> None:
        self._inbox.tell(Verb.RELEASE, request_id)

    def state(self) -> State:
        running = self._scheduler.running
        waiting = max(0, self._inbox.live - running)
        return State(self._inbox.open, running, waiting, self._scheduler.kv_tokens, self._steps)

    def hangs(self, seconds: float) -> bool:
        """Whether the step in progress takes longer than this."""
        since = self._busy_since
        return self._inbox.open and since is not None and time.monotonic() - since > seconds

    # The rest runs on the engine thread.

    def _run(self) -> None:
        fault: BaseException | None = None
        try:
            if self._model.device.type == "cuda":
                torch.cuda.set_device(self._model.device)  # each thread has a current one
            with torch.inference_mode():
                while not self._stopping:
                    self._inbox.wake.clear()
                    self._busy_since = time.monotonic()
                    self._take_messages()
                    if not self._step():
                        self._busy_since = None
                        self._inbox.wake.wait()
        except BaseException as died:
            fault = died
            _log.critical("the engine died", exc_info=died)
        self._inbox.open = False
        self._take_messages()
        reason = "the engine stopped" if fault is None else "the engine failed"
        self._deliver([(request_id, Failed(reason, Cause.UNAVAILABLE)) for request_id in self._generations])
        self._ended()

    def _step(self) -> bool:
        """One step for everyone; False if there was nothing to do."""
        if self._batch.unread and not self._steady():
            self._tell(self._events(self._batch.land()))
        self._scheduler.admit()
        self._reuse()
        plan = self._scheduler.plan()
        if not plan:
            return False
        self._batch.settle()
        logits = self._forward(plan)
        events = self._draw(plan, logits)
        self._steps += 1
        self._tell(events)
        return True

    def _steady(self) -> bool:
        """Whether the next step can be computed before the last is read: the same rows, and nobody else to see to."""
        scheduler = self._scheduler
        others = scheduler.waiting or scheduler.prefilling or scheduler.paused
        return not others and scheduler.decoding == self._batch.members and self._batch.foreseeable(2)

    def _tell(self, events: list[tuple[str, Event]]) -> None:
        if events:
            self._deliver(events)

    def _take_messages(self) -> None:
        for message in self._inbox.messages():
            if isinstance(message, GenerationRequest):
                self._open(message)
            elif isinstance(message, Displace):
                self._displace(message)
            elif message[1] in self._generations:
                self._obey(message[0], self._generations[message[1]])

    def _obey(self, verb: Verb, generation: Generation) -> None:
        if verb is Verb.CANCEL:
            self._retire(generation)
        else:
            generation.held = verb is Verb.HOLD

    def _displace(self, client: str) -> None:
        """Let the last that this client has waiting make room, if any still waits."""
        waiting = self._scheduler.waiting.get(client)
        if waiting:
            last = waiting[-1]
            self._retire(last)
            told = "the queue is full, and others have less in it"
            self._deliver([(last.id, Failed(told, Cause.DISPLACED))])
        self._inbox.displaced()

    def _open(self, request: GenerationRequest) -> None:
        kind = Generation if request.scored_from is None else Scoring
        try:
            generation = kind(request, self._model.context_length, self._model.eos, self._token_bytes)
        except Exception:
            _log.exception("generation %s could not begin", request.id)
            self._inbox.forget(request.client)
            self._deliver([(request.id, Failed("a fault of the server, before the first token"))])
            return
        if self._scheduler.limits.prefix_cache and not isinstance(generation, Scoring):
            generation.blocks = block_names(request.prompt, self._scheduler.limits.block)
        self._generations[request.id] = generation
        self._scheduler.add(generation)

    def _retire(self, generation: Generation) -> None:
        self._scheduler.retire(generation)
        del self._generations[generation.id]
        self._caches.pop(generation.id, None)
        self._inbox.forget(generation.request.client)

    def _reuse(self) -> None:
        """Take what is known of the prompts' beginnings from the prefix cache, which has what no generation needs."""
        block = self._scheduler.limits.block
        self._prefixes.shrink(self._scheduler.limits.kv_tokens - self._scheduler.kv_tokens)
        for generation in self._scheduler.prefilling:
            first = generation.prefilled // block
            if first < len(generation.blocks):
                found = self._prefixes.restore(generation.blocks, first, self._cache(generation))
                generation.prefilled += found * block
                generation.cached += found * block

    def _cache(self, generation: Generation) -> RowCache:
        if generation.id not in self._caches:
            self._caches[generation.id] = self._model.cache(generation.kv_tokens)
        return self._caches[generation.id]

    def _forward(self, plan: Plan) -> Tensor:
        """Logits of all rows that draw, those that decode before those whose prompt is now complete, and then those of
        what is scored."""
        unread = self._batch.unread
        decoding = [Piece(self._caches[g.id], g.given - 1 + unread, None) for g in plan.decoding]
        pieces = [(piece, generation) for piece, generation in zip(decoding, plan.decoding, strict=True)]
        for chunk in plan.chunks:
            generation = chunk.generation
            pieces.extend((piece, generation) for piece in self._pieces(chunk, self._cache(generation)))
        try:
            logits = self._model.forward([piece for piece, _ in pieces], self._batch.last)
        except Exception:
            _log.exception("a step failed; its rows are now computed one by one")
            logits = self._one_by_one(pieces)
        else:
            self._keep(plan.chunks)
        for chunk in plan.chunks:
            if chunk.generation.stage is Stage.PREFILLING:
                self._scheduler.advance(chunk)
        return logits

    def _keep(self, chunks: Sequence[Chunk]) -> None:
        """Keep the blocks that were computed for prompts that begin alike, where there is room."""
        block = self._scheduler.limits.block
        room = self._scheduler.limits.kv_tokens - self._scheduler.kv_tokens
        try:
            for chunk in chunks:
                names = chunk.generation.blocks[: chunk.stop // block]
                self._prefixes.keep(names, chunk.start // block, self._caches[chunk.generation.id], room)
        except Exception:  # no memory, most likely: generations come first
            _log.exception("the prefix cache is emptied")
            self._prefixes.shrink(0)

    def _one_by_one(self, pieces: Sequence[tuple[Piece, Generation]]) -> Tensor:
        """The same step, each row alone: only the row that cannot be computed fails, by way of NaN logits.

        Writing keys and values again at the same positions changes nothing.
        """
        logits = []
        for row, (piece, generation) in enumerate(pieces):
            mine = self._batch.last[row : row + 1] if piece.tokens is None else self._batch.last[:0]
            try:
                out = self._model.forward([piece], mine)
            except Exception:
                _log.exception("a row failed")
                out = torch.full((piece.draws, self._model.vocab_size), torch.nan, device=self._model.device)
                # A prompt that is not complete draws nothing: end it here.
                if not piece.draws and generation.stage is Stage.PREFILLING:
                    self._retire(generation)
                    self._deliver([(generation.id, Failed("the model failed on this prompt"))])
            logits.append(out.float())
        return torch.cat(logits)

    def _draw(self, plan: Plan, logits: Tensor) -> list[tuple[str, Event]]:
        draws = [chunk for chunk in plan.chunks if not isinstance(chunk.generation, Scoring)]
        self._batch.join([chunk.generation for chunk in draws if chunk.completes])
        events: list[tuple[str, Event]] = []
        drawing = len(self._batch.members)
        if drawing:
            events.extend(self._events(self._batch.draw(logits[:drawing], ahead=not plan.chunks)))
        if len(draws) < len(plan.chunks):
            events.extend(self._score(plan.chunks[len(draws) :], logits[drawing:]))
        return events

    def _events(self, draws: Iterable[tuple[Generation, Draw | None]]) -> list[tuple[str, Event]]:
        events: list[tuple[str, Event]] = []
        for generation, drawn in draws:
            events.extend([self._fail(generation)] if drawn is None else self._take(generation, drawn))
        return events

    def _fail(self, generation: Generation) -> tuple[str, Event]:
        self._retire(generation)
        return generation.id, Failed(f"a fault of the server, at output token {generation.output_tokens}")

    def _score(self, chunks: Sequence[Chunk], logits: Tensor) -> Iterator[tuple[str, Event]]:
        """Score the next tokens of texts. The loop is over time, where one step waits for another, and over texts."""
        for chunk in chunks:
            scoring, places = chunk.generation, chunk.scored
            mine, logits = logits[: len(places)], logits[len(places) :]
            assert isinstance(scoring, Scoring)
            given = torch.tensor([scoring.request.prompt[place + 1] for place in places], device=logits.device)
            size = 1 if scoring.sequential else max(len(places), 1)
            for part, tokens in zip(mine.split(size), given.split(size), strict=True):
                if scoring.stage is Stage.DONE:
                    break
                try:
                    yield from self._score_part(scoring, part, tokens)
                except Exception:
                    _log.exception("a text could not be scored")
                    yield self._fail(scoring)

    def _score_part(self, scoring: Scoring, logits: Tensor, tokens: Tensor) -> Iterator[tuple[str, Event]]:
        settings = scoring.settings
        rows = Rows([replace(settings, position=settings.position + i) for i in range(len(tokens))], logits.device)
        _, report = adaptive.step(logits, rows, tokens=tokens)
        for row, record in enumerate(report.records()):
            if scoring.stage is not Stage.DONE:
                yield from self._take(scoring, Draw(*record, report.faults.get(row)))

    def _take(self, generation: Generation, drawn: Draw) -> list[tuple[str, Event]]:
        """A row's events. Whatever goes wrong in it ends its own request and no other."""
        events: list[Event]
        info, choices, said = drawn
        try:
            if info.fault == adaptive.Fault.LOGITS:
                raise ArithmeticError("the model gave no distribution (NaN or infinite logits), or masks left nothing")
            if info.fault:
                raise ArithmeticError(f"the policy failed: {said or 'it gave no temperature or no distribution'}")
            events = generation.take(info, choices)
        except FormError as fault:
            events = [Failed(str(fault), Cause.FORM)]
        except Exception as fault:
            _log.exception("generation %s failed at token %d", generation.id, generation.output_tokens)
            told = str(fault) if isinstance(fault, ArithmeticError) else "a fault of the server"
            events = [Failed(f"{told}, at output token {generation.output_tokens}")]
        if isinstance(events[-1], Finished | Failed):
            self._retire(generation)
        return [(generation.id, event) for event in events]

    def _pieces(self, chunk: Chunk, cache: RowCache) -> Iterator[Piece]:
        """What the model computes of a chunk. Tokens that had been drawn are computed one by one, as they were then:
        with that a resumed generation has the bits of the uncut one. A prompt is computed block by block for the same
        reason, where the model has to be."""
        if chunk.replays:
            last = chunk.stop - 1
            for place, token in enumerate(chunk.tokens, chunk.start):
                yield Piece(cache, place, (token,), int(chunk.completes and place == last))
            return
        if isinstance(chunk.generation, Scoring):
            scored = chunk.scored
            yield Piece(cache, chunk.start, chunk.tokens, len(scored), chunk.stop - scored.stop if scored else 0)
            return
        starts = list(range(chunk.start, chunk.stop, self._scheduler.limits.block))
        if not self._model.bits_vary:
            # Only a token alone is computed in another way: one that is alone in its block is so in any pieces.
            starts = [chunk.start, *(start for start in starts[1:] if start == chunk.stop - 1)]
        for start, stop in zip(starts, [*starts[1:], chunk.stop], strict=True):
            tokens = chunk.generation.request.prompt[start:stop]
            yield Piece(cache, start, tokens, int(chunk.completes and stop == chunk.stop))
