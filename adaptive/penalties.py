"""Penalties: what makes repetition less likely. They change logits before the policy's temperature.

The tokens so far of the rows that use one lie on the device and grow by one a step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adaptive.entropy import power
from adaptive.parameters import Declared, number, positive

_BASE, _ALLOWED = 1.75, 2
_GROWTH = 256
_LONGEST = 50
"""Text-generation-webui looks no further back for a match."""
_LARGEST = 1.0e4
"""DRY grows exponentially, and a repetition may be any number; beyond this nothing changes any more, and infinity would
rule a token out."""


@dataclass(frozen=True, slots=True)
class Penalties(Declared):
    """The penalties of one request.

    Sources: repetition arXiv 1909.05858; presence and frequency as OpenAI and vLLM define them; DRY as in
    text-generation-webui.
    """

    repetition: float = positive(
        1.0, "Divides positive and multiplies negative logits of tokens that prompt or output has."
    )
    presence: float = number(0.0, "Subtracted from tokens that the output has.", minimum=-10.0, maximum=10.0)
    frequency: float = number(0.0, "Subtracted for each time that the output has a token.", minimum=-10.0, maximum=10.0)
    dry_multiplier: float = number(0.0, "Scale of the DRY penalty; 0 is off.", minimum=0.0)
    dry_base: float | None = number(None, "Growth with each repeated token; 1.75 if unset.", minimum=1.0)
    dry_allowed_length: int | None = number(
        None, "Shorter repetitions are free; 2 if unset.", unit="tokens", minimum=1, integer=True
    )
    dry_window: int | None = number(
        None,
        "How many of the last tokens are searched; 0 or unset: all.",
        unit="tokens",
        minimum=0,
        integer=True,
    )

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if not self.dry_multiplier:
            for name in ("dry_base", "dry_allowed_length", "dry_window"):
                if getattr(self, name) is not None:
                    yield name, "must be unset without dry_multiplier"

    @property
    def active(self) -> bool:
        """Whether anything is penalised at all."""
        return self.repetition != 1.0 or bool(self.presence or self.frequency or self.dry_multiplier)


@dataclass(frozen=True, slots=True)
class History:
    """The tokens of a request before the next one. breakers: tokens that break a repetition, for DRY."""

    prompt: Sequence[int] = ()
    output: Sequence[int] = ()
    breakers: frozenset[int] = field(default_factory=frozenset)


class Repetition:
    """The tokens so far of `rows` (rows of the batch) and their penalties, on the device.

    tokens: int64 `[members, capacity]`; beyond a member's length stands its first token, which it has anyway.
    match: for each place, how many tokens up to there are those that the text now ends with.
    """

    def __init__(
        self, rows: list[int], penalties: Sequence[Penalties], histories: Sequence[History], device: torch.device
    ) -> None:
        self.rows = rows
        self.index = torch.tensor(rows, dtype=torch.int64, device=device)

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)[:, None]

        self.repetition = column([min(max(p.repetition, 1 / _LARGEST), _LARGEST) for p in penalties])
        self.presence = column([p.presence for p in penalties])
        self.frequency = column([p.frequency for p in penalties])
        self.multiplier = column([p.dry_multiplier for p in penalties])
        self.base = column([_BASE if p.dry_base is None else p.dry_base for p in penalties])
        self.allowed = column([_ALLOWED if p.dry_allowed_length is None else p.dry_allowed_length for p in penalties])
        self.window = column([p.dry_window or float("inf") for p in penalties])
        self.counts_output = any(p.presence or p.frequency for p in penalties)
        self.uses_dry = any(p.dry_multiplier for p in penalties)
        texts = [[*history.prompt, *history.output] for history in histories]
        self.lengths = torch.tensor([len(text) for text in texts], dtype=torch.int64, device=device)
        self.prompts = torch.tensor([len(history.prompt) for history in histories], dtype=torch.int64, device=device)
        self._longest = max(map(len, texts), default=0)
        capacity = self._longest + _GROWTH
        padded = [text + [text[0] if text else 0] * (capacity - len(text)) for text in texts]
        self.tokens = torch.tensor(padded, dtype=torch.int64, device=device)
        most = max((len(history.breakers) for history in histories), default=0)
        breakers = [[*sorted(h.breakers), *[-1] * (most - len(h.breakers))] for h in histories]
        self.breakers = torch.tensor(breakers, dtype=torch.int64, device=device)
        broken = [[t in h.breakers for t in text] for text, h in zip(padded, histories, strict=True)]
        self.breaks = torch.tensor(broken, dtype=torch.bool, device=device)
        self.match = self._matches() if self.uses_dry else torch.zeros_like(self.tokens)

    def apply(self, logits: Tensor) -> Tensor:
        """Penalised logits of the members, `[members, vocab]` in and out, in this order: repetition, frequency and
        presence, DRY."""
        z = logits.clone()
        seen = z.gather(-1, self.tokens)
        penalised = torch.where(seen > 0, seen / self.repetition, seen * self.repetition)
        has_any = (self.lengths > 0)[:, None]
        z.scatter_(-1, self.tokens, torch.where(has_any, penalised, seen))
        if self.counts_output:
            places = torch.arange(self.tokens.shape[-1], device=z.device)
            drawn = self._written() & (places >= self.prompts[:, None])
            counts = torch.zeros_like(z).scatter_add_(-1, self.tokens, drawn.to(z.dtype))
            z -= self.frequency * counts + self.presence * (counts > 0)
        if self.uses_dry:
            z -= self._dry(z)
        return z

    def append(self, tokens: Tensor) -> None:
        """Take in the token that each member has drawn, int64 `[members]`."""
        self._longest += 1
        if self._longest >= self.tokens.shape[-1]:
            self._widen(self.tokens.shape[-1] + _GROWTH)
        new = tokens[:, None]
        broken = (new == self.breakers).any(-1, keepdim=True)
        self.breaks = self.breaks.scatter(-1, self.lengths[:, None], broken)
        # A text that was empty is padded with its first token only now that it has one.
        empty = (self.lengths == 0)[:, None]
        self.tokens = torch.where(empty, new, self.tokens.scatter(-1, self.lengths[:, None], new))
        self.lengths = self.lengths + 1
        if self.uses_dry:
            # A match grows where the same token follows it; all others end.
            before = torch.nn.functional.pad(self.match[:, :-1], (1, 0))
            same = (self.tokens == new) & ~broken & self._written()
            self.match = torch.where(same, before + 1, 0)

    def copy_from(self, other: "Repetition", pairs: list[tuple[int, int]]) -> None:
        """Take over the tokens of members of `other`: (member here, member there) each."""
        self._longest = max(self._longest, other._longest)
        capacity = max(self.tokens.shape[-1], other.tokens.shape[-1])
        self._widen(capacity)
        other._widen(capacity)
        to, source = torch.tensor(pairs, dtype=torch.int64, device=self.tokens.device).T
        for name in ("tokens", "lengths", "prompts", "breaks", "match"):
            getattr(self, name)[to] = getattr(other, name)[source]
        if self.uses_dry and not other.uses_dry:
            self.match = self._matches()

    def _widen(self, capacity: int) -> None:
        more = self.tokens[:, :1].expand(-1, capacity - self.tokens.shape[-1])
        self.tokens = torch.cat([self.tokens, more], -1)
        self.match = torch.cat([self.match, torch.zeros_like(more)], -1)
        self.breaks = torch.cat([self.breaks, torch.zeros_like(more, dtype=torch.bool)], -1)

    def _written(self) -> Tensor:
        """Which places hold a token of the text, bool `[members, capacity]`."""
        return torch.arange(self.tokens.shape[-1], device=self.tokens.device) < self.lengths[:, None]

    def _matches(self) -> Tensor:
        """`match` of the tokens so far, once when a member joins: one round for each token of the longest match."""
        capacity = self.tokens.shape[-1]
        places = torch.arange(capacity, device=self.tokens.device)
        match = torch.zeros_like(self.tokens)
        alive = (places < self.lengths[:, None] - 1).clone()
        for back in range(capacity):
            last = self.lengths[:, None] - 1 - back
            here = self.tokens.roll(back, -1)
            wanted = self.tokens.gather(-1, last.clamp(min=0))
            alive &= (here == wanted) & (last >= 0) & (places >= back) & ~self.breaks.gather(-1, last.clamp(min=0))
            if not bool(alive.any()):
                break
            match += alive
        return match

    def _dry(self, z: Tensor) -> Tensor:
        """The DRY penalty `[members, vocab]`: what follows an earlier match would make the repetition longer."""
        places = torch.arange(self.tokens.shape[-1], device=z.device)
        begin = self.lengths[:, None] - self.window
        length = torch.minimum(self.match, (places + 1 - begin).clamp(min=0, max=_LONGEST)).long()
        # The token after a match; after the last place there is none, and a breaker is never penalised.
        counted = self._written()[:, 1:] & ~self.breaks[:, 1:]
        longest = torch.zeros_like(z, dtype=torch.int64)
        longest.scatter_reduce_(-1, self.tokens[:, 1:], torch.where(counted, length[:, :-1], 0), "amax")
        grown = self.multiplier * power(self.base, longest - self.allowed)
        return torch.where(longest >= self.allowed, grown.clamp(max=_LARGEST), 0.0)
