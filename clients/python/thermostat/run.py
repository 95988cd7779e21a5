"""What came of one generation so far: gathered event by event, summed up at any moment."""

import time
from dataclasses import dataclass, field

from thermostat.client import Event
from thermostat.v1 import generation_pb2 as pb


@dataclass
class Piece:
    """A piece of text, and the original entropy (nats) of the last token it came from; None if it came from none."""

    text: str
    entropy: float | None


@dataclass
class Run:
    """One generation, as far as it has come."""

    label: str
    started: pb.Started | None = None
    finished: pb.Finished | None = None
    tokens: list[pb.Token] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    begin: float = field(default_factory=time.monotonic)
    end: float = 0.0
    error: Exception | None = None

    def take(self, event: Event) -> Piece | None:
        """Take in an event; the new text, if there is any."""
        self.end = time.monotonic()
        if isinstance(event, pb.Started):
            self.started = event
        elif isinstance(event, pb.Finished):
            self.finished = event
        elif isinstance(event, pb.Output):
            self.tokens.extend(event.tokens)
            if event.text_delta:
                last = event.tokens[-1] if event.tokens else None
                known = last is not None and last.HasField("sampling_info")
                piece = Piece(event.text_delta, last.sampling_info.original_entropy if known else None)
                self.pieces.append(piece)
                return piece
        return None

    @property
    def reason(self) -> str:
        """Why it ended, in lower case."""
        if self.finished is not None:
            return pb.FinishReason.Name(self.finished.reason).removeprefix("FINISH_REASON_").lower()
        return "failed" if self.error is not None else "interrupted"

    @property
    def tokens_per_second(self) -> float:
        """As seen here, from the call to the last event."""
        return len(self.tokens) / max(self.end - self.begin, 1e-9)

    @property
    def distinct_share(self) -> float:
        """Share of the tokens that are different from one another: low in a text that repeats itself."""
        return len({token.token_id for token in self.tokens}) / max(len(self.tokens), 1)

    def values(self, name: str) -> list[float]:
        """One figure of the sampling info over the tokens that have it."""
        infos = [token.sampling_info for token in self.tokens]
        return [getattr(info, name) for info in infos if info.HasField(name)]

    def mean(self, name: str) -> float | None:
        """Mean of one figure of the sampling info; None if no token has it."""
        values = self.values(name)
        return sum(values) / len(values) if values else None

    @property
    def mean_surprisal(self) -> float | None:
        """Mean of -logprob, nats."""
        return -sum(token.logprob for token in self.tokens) / len(self.tokens) if self.tokens else None
