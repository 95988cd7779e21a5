"""What came of one generation so far: gathered event by event, summed up at any moment."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from thermostat.events import Event
from thermostat.v1 import generation_pb2 as pb


@dataclass
class Piece:
    """A piece of text, and the original entropy (nats) of the token it came from; None if that is not known."""

    text: str
    entropy: float | None


class Attribution:
    """Finds the token that each character came from: text lags behind tokens where one splits a character."""

    def __init__(self) -> None:
        self._bytes = b""
        self._entropies: list[float | None] = []
        self._last: float | None = None

    def take(self, output: pb.Output) -> list[Piece]:
        """The new text in pieces, one for each run of characters of a token."""
        for token in output.tokens:
            info = token.sampling_info
            entropy = info.original_entropy if info.HasField("original_entropy") else None
            self._bytes += token.token_bytes
            self._entropies += [entropy] * len(token.token_bytes)
            self._last = entropy
        pieces: list[Piece] = []
        for character in output.text_delta:
            entropy = self._take(character.encode(errors="replace"))
            if pieces and pieces[-1].entropy == entropy:
                pieces[-1].text += character
            else:
                pieces.append(Piece(character, entropy))
        return pieces

    def _take(self, character: bytes) -> float | None:
        at = self._bytes.find(character)
        if at < 0:  # the tokenizer wrote something else than its bytes
            return self._entropies[0] if self._entropies else self._last
        entropy = self._entropies[at]
        end = at + len(character)
        self._bytes, self._entropies = self._bytes[end:], self._entropies[end:]
        return entropy


@dataclass
class Run:
    """One generation, as far as it has come."""

    label: str
    started: pb.Started | None = None
    finished: pb.Finished | None = None
    tokens: list[pb.Token] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    error: Exception | None = None
    _arrivals: list[float] = field(default_factory=list)
    _attribution: Attribution = field(default_factory=Attribution)

    def take(self, event: Event) -> list[Piece]:
        """Take in an event; the new text, if there is any."""
        if isinstance(event, pb.Started):
            self.started = event
        elif isinstance(event, pb.Finished):
            self.finished = event
        elif isinstance(event, pb.Output):
            self.tokens.extend(event.tokens)
            self._arrivals.append(time.monotonic())
            new = self._attribution.take(event)
            self.pieces.extend(new)
            return new
        return []

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def reason(self) -> str:
        """Why it ended, in lower case."""
        if self.finished is not None:
            return pb.FinishReason.Name(self.finished.reason).removeprefix("FINISH_REASON_").lower()
        return "failed" if self.error is not None else "interrupted"

    @property
    def tokens_per_second(self) -> float | None:
        """Rate of decoding after the first token: the server's figure, else as seen here. None below two tokens."""
        seconds = self._arrivals[-1] - self._arrivals[0] if self._arrivals else 0.0
        if self.finished is not None and self.finished.timing.HasField("decode"):
            seconds = self.finished.timing.decode.ToNanoseconds() / 1e9
        return (len(self.tokens) - 1) / seconds if len(self.tokens) > 1 and seconds > 0 else None

    @property
    def distinct_share(self) -> float | None:
        """Share of the tokens that are different from one another: low in a text that repeats itself."""
        return len({token.token_id for token in self.tokens}) / len(self.tokens) if self.tokens else None

    def values(self, name: str) -> list[float]:
        """One figure of the sampling info over the tokens that have it."""
        infos = [token.sampling_info for token in self.tokens]
        return [getattr(info, name) for info in infos if info.HasField(name)]

    def figures(self, name: str) -> tuple[float, float, float] | None:
        """Mean, least and greatest value of a figure: the server's over the whole run, else over the tokens here."""
        summary = self.finished.summary if self.finished is not None else pb.Summary()
        if name in summary.DESCRIPTOR.fields_by_name and summary.HasField(name):
            distribution = getattr(summary, name)
            return distribution.mean, distribution.min, distribution.max
        values = self.values(name)
        return (math.fsum(values) / len(values), min(values), max(values)) if values else None

    def mean(self, name: str) -> float | None:
        """Mean of one figure; None if it is not known."""
        figures = self.figures(name)
        return figures[0] if figures else None

    @property
    def mean_change(self) -> float | None:
        """Mean of final minus original entropy, nats."""
        original, final = self.mean("original_entropy"), self.mean("final_entropy")
        return None if original is None or final is None else final - original

    @property
    def perplexity(self) -> float | None:
        """exp of the mean of -logprob: how surprising the text is to the model itself."""
        if self.finished is not None and self.finished.summary.HasField("perplexity"):
            return self.finished.summary.perplexity
        logprobs = [token.logprob for token in self.tokens if token.HasField("logprob")]
        return math.exp(min(-math.fsum(logprobs) / len(logprobs), 700.0)) if logprobs else None
