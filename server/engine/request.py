"""What the engine is asked to do: one generation, fully resolved. Knows neither torch nor grpc."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from adaptive.filters import Filters
from adaptive.penalties import Penalties
from adaptive.policies import Fixed, Policy, PolicyState
from adaptive.signals import Rule


@dataclass(frozen=True, slots=True)
class Stopping:
    """When a generation ends. time_limit in seconds from arrival."""

    max_output_tokens: int = 256
    min_output_tokens: int = 0
    stop_sequences: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    time_limit: float | None = None


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a generation was cut: its tokens so far, and what its policy and its monitor knew after the last."""

    tokens: tuple[int, ...] = ()
    state: PolicyState | None = None
    recent_entropy: tuple[float, ...] = ()
    saturated_run: int = 0


class FormError(ValueError):
    """A form cannot take in a token; the message says why."""


class Form(Protocol):
    """A form that the output must have, at the place that the output has come to. Owned by one generation."""

    def allowed(self) -> bytes:
        """Which tokens may come next: one bit a token, least significant first, in whole 32-bit words."""

    def advance(self, token: int) -> None:
        """Take in a drawn token. FormError if it leaves the form, or if the form is too complex to go on."""

    @property
    def complete(self) -> bool:
        """Whether nothing more may come."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One generation. prompt: token ids, at least one. seed: unsigned 64 bits. arrival: on the monotonic clock.

    breakers: tokens that break a repetition, for DRY. scored_from: if set, nothing is drawn, and the tokens of `prompt`
    from there on are scored. client: whose it is; clients share the engine fairly.
    """

    id: str
    prompt: tuple[int, ...]
    policy: Policy = Fixed()
    filters: Filters = Filters()
    stopping: Stopping = Stopping()
    seed: int = 0
    candidates: int = 0
    penalties: Penalties = Penalties()
    bias: Mapping[int, float] = field(default_factory=dict)
    breakers: frozenset[int] = frozenset()
    resume: Resume = Resume()
    form: Form | None = None
    rules: tuple[Rule, ...] = ()
    scored_from: int | None = None
    client: str = ""
    arrival: float = field(default_factory=time.monotonic)
