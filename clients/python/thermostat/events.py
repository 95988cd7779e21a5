"""What a generation yields: the messages of the contract, taken out of their envelope."""

from __future__ import annotations

from typing import TypeAlias

from thermostat.v1.generation_pb2 import (
    Finished,
    FinishReason,
    GenerateResponse,
    Output,
    ScoreResponse,
    Started,
    Token,
)

__all__ = ["Event", "FinishReason", "Finished", "Output", "Started", "Token", "unwrap"]

Event: TypeAlias = Started | Output | Finished
"""One `Started`, any number of `Output`, one `Finished`."""


def unwrap(response: GenerateResponse | ScoreResponse) -> Event | None:
    """The event that a response carries; None for a kind that this client does not know."""
    kind = response.WhichOneof("event")
    return getattr(response, kind) if kind else None
