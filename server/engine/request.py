"""What the engine is asked to do: one generation, fully resolved. Knows neither torch nor grpc."""

import time
from dataclasses import dataclass, field

from adaptive.filters import Filters
from adaptive.policies import Fixed, Policy


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
class GenerationRequest:
    """One generation. prompt: token ids, at least one. seed: unsigned 64 bits. arrival: on the monotonic clock."""

    id: str
    prompt: tuple[int, ...]
    policy: Policy = Fixed()
    filters: Filters = Filters()
    stopping: Stopping = Stopping()
    seed: int = 0
    candidates: int = 0
    arrival: float = field(default_factory=time.monotonic)
