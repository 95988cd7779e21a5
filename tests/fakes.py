"""A model with chosen logits, and an engine around it. No weights, no tokenizer, milliseconds."""

import queue
from collections.abc import Callable, Sequence

import torch

from server.engine.detokenizer import TokenBytes
from server.engine.events import Drawn, Event, Failed, Finished
from server.engine.kv_cache import RowCache
from server.engine.local import LocalEngine
from server.engine.model import Model, Piece
from server.engine.request import GenerationRequest
from server.engine.scheduler import Limits

VOCAB = 32
EOS = 0


def counting(tokens: list[int]) -> torch.Tensor:
    """Logits that make the next token the last one plus one, all but surely; after 31 comes 1."""
    logits = torch.zeros(VOCAB)
    logits[(tokens[-1] % (VOCAB - 1)) + 1] = 50.0
    return logits


class FakeModel:
    """Answers `forward` from a function of all tokens of a row, which its KV memory holds as keys."""

    name = "fake"
    vocab_size = VOCAB
    eos = frozenset({EOS})
    device = torch.device("cpu")
    bits_vary = True
    bytes_per_token = 8

    def __init__(self, logits: Callable[[list[int]], torch.Tensor] = counting, context_length: int = 64) -> None:
        self.logits = logits
        self.context_length = context_length
        self.batches: list[tuple[int, int]] = []

    def cache(self, capacity: int) -> RowCache:
        """As server.engine.model.Model.cache."""
        return RowCache(capacity)

    def forward(self, pieces: Sequence[Piece], last_tokens: torch.Tensor) -> torch.Tensor:
        """As server.engine.model.Model.forward."""
        rows, lasts = [], iter(last_tokens.tolist())
        self.batches.append((sum(p.tokens is None for p in pieces), sum(len(p.tokens or ()) for p in pieces)))
        for piece in pieces:
            new = torch.tensor([next(lasts)] if piece.tokens is None else piece.tokens).view(1, 1, -1, 1)
            seen = piece.cache.write(0, piece.start, new, new)[0].flatten().tolist()
            end = len(seen) - piece.skips
            rows.extend(self.logits(seen[:place]) for place in range(end - piece.draws + 1, end + 1))
        return torch.stack(rows) if rows else torch.zeros(0, VOCAB)


def spell(token: int) -> bytes:
    """Token 1 is "a", 2 is "b" …; the end has no bytes."""
    return b"" if token == EOS else bytes([96 + token])


class Harness:
    """An engine on a fake model, with its events sorted by request."""

    def __init__(
        self,
        model: FakeModel | Model | None = None,
        rows: int = 4,
        kv: int = 1000,
        chunk: int = 8,
        most: int = 64,
        limits: Limits | None = None,
        token_bytes: TokenBytes = spell,
    ) -> None:
        self.model = model or FakeModel()
        self.events: dict[str, list[Event]] = {}
        self._arrived: queue.SimpleQueue = queue.SimpleQueue()
        self.steps: list[list[tuple[str, Event]]] = []
        self.engine = LocalEngine(self.model, token_bytes, limits or Limits(rows, kv, chunk), most, self._deliver)

    def _deliver(self, events: list[tuple[str, Event]]) -> None:
        self.steps.append(events)
        for request_id, event in events:
            self.events.setdefault(request_id, []).append(event)
            if isinstance(event, Finished | Failed):
                self._arrived.put(request_id)

    def __enter__(self) -> "Harness":
        self.engine.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.stop()

    def run(self, *requests: GenerationRequest) -> list[Finished | Failed]:
        """Submit, wait for all, and give their last events."""
        for request in requests:
            self.engine.submit(request)
        waiting = {request.id for request in requests}
        while waiting:
            waiting.discard(self._arrived.get(timeout=30))
        return [self.events[request.id][-1] for request in requests]

    def tokens(self, request_id: str) -> list[int]:
        """The tokens that a request has drawn."""
        return [event.info.token_id for event in self.events[request_id] if isinstance(event, Drawn)]

    def text(self, request_id: str) -> str:
        """The text that a request has shown."""
        return "".join(event.text for event in self.events[request_id] if isinstance(event, Drawn | Finished))
