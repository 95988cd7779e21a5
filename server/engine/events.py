"""What a generation emits, in order: one Started, any number of Drawn, then one Finished or one Failed."""

import enum
from array import array
from dataclasses import dataclass, field

from adaptive.info import Choice, SamplingInfo
from adaptive.policies import PolicyState
from adaptive.signals import Signal
from server.engine.request import Resume


class FinishReason(enum.Enum):
    """Why a generation ended well."""

    EOS = "eos"
    STOP_SEQUENCE = "stop_sequence"
    STOP_TOKEN = "stop_token"
    MAX_OUTPUT_TOKENS = "max_output_tokens"
    CONTEXT_LENGTH = "context_length"
    TIME_LIMIT = "time_limit"
    ENTROPY_STOP = "entropy_stop"
    SCORED = "scored"


@dataclass(frozen=True, slots=True)
class Started:
    """The first token has been drawn. queue_seconds: from arrival to a place in the batch. cached_tokens: tokens of the
    prompt that another prompt had computed."""

    max_output_tokens: int
    queue_seconds: float
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Drawn:
    """One token, and the text that it completes (often its own, sometimes none).

    state: the policy's after it. phase: that it was drawn in, None if the policy has no phases.
    """

    index: int
    info: SamplingInfo
    choices: list[Choice]
    text: str
    state: PolicyState | None = None
    phase: int | None = None
    signals: list[Signal] = field(default_factory=list)


@dataclass(slots=True)
class Record:
    """The figures of a run, one entry a token, for its summary. Nats; temperature and saturated may be NaN."""

    original_entropy: array = field(default_factory=lambda: array("d"))
    final_entropy: array = field(default_factory=lambda: array("d"))
    temperature: array = field(default_factory=lambda: array("d"))
    surprisal: array = field(default_factory=lambda: array("d"))
    saturated: array = field(default_factory=lambda: array("d"))

    def add(self, info: SamplingInfo) -> None:
        """Take in one token."""
        self.original_entropy.append(info.original_entropy)
        self.final_entropy.append(info.final_entropy)
        self.temperature.append(info.temperature)
        self.surprisal.append(-info.logprob)
        self.saturated.append(info.saturated)


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a generation that went well. text: what was still held back. Times in seconds.

    resume: how to go on from here; None after scoring.
    """

    reason: FinishReason
    matched: str | int | None
    text: str
    prompt_tokens: int
    output_tokens: int
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    record: Record
    resume: Resume | None


class Cause(enum.Enum):
    """Why a generation went wrong."""

    FAULT = "fault"
    """Of the server, or of the model."""
    UNAVAILABLE = "unavailable"
    """The engine is gone; another try may work."""
    DISPLACED = "displaced"
    """It had to make room in the queue for a client with less; another try may work."""
    FORM = "form"
    """The form that it must have is too complex to go on."""
    STALLED = "stalled"
    """Its reader did not read."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The end of a generation that went wrong. Others are not touched."""

    message: str
    cause: Cause = Cause.FAULT


Event = Started | Drawn | Finished | Failed
