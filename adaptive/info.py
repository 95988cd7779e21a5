"""Sampling info: columns on the device, one packed tensor to the host, one record a token there."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from adaptive.entropy import Statistics
from adaptive.policies import Control


class SamplingInfo(NamedTuple):
    """How one token came to be drawn. Entropies in nats; NaN where a value was not computed.

    failed: the logits were no distribution; nothing else of the record means anything then.
    top_k 0, top_p 1 and min_p 0 mean that the filter was off.
    """

    token_id: int
    failed: bool
    original_entropy: float
    final_entropy: float
    effective_vocab_size: int
    original_vocab_size: int
    top_token_prob: float
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    varentropy: float
    scaled_entropy: float
    original_top_prob: float
    kept_mass: float
    saturated: float
    infeasible: float
    logprob: float
    filtered_logprob: float
    rank: int

    @property
    def entropy_change(self) -> float:
        """final - original entropy, nats."""
        return self.final_entropy - self.original_entropy


class Choice(NamedTuple):
    """A token that could have been drawn: log probabilities at step 1 and, NaN if it was filtered, at step 6."""

    token_id: int
    logprob: float
    filtered_logprob: float


_INTEGERS = [i for i, kind in enumerate(SamplingInfo.__annotations__.values()) if kind is int]


@dataclass(slots=True)
class Columns:
    """What a step knows of each row, `[rows]` each, while it is on the device."""

    statistics: Statistics
    control: Control
    rows_top_k: Tensor
    rows_top_p: Tensor
    rows_min_p: Tensor
    final_entropy: Tensor
    effective: Tensor
    top_token_prob: Tensor
    scaled_entropy: Tensor
    kept_mass: Tensor
    tokens: Tensor
    filtered_logprob: Tensor


def pack(columns: Columns, choices: Tensor | None) -> Tensor:
    """All columns in one float64 tensor `[rows, n]`, which holds their integers exactly: one copy to the host.

    choices: (id, logprob, filtered logprob) of the most likely tokens, `[rows, count, 3]`, or None.
    """
    statistics, control = columns.statistics, columns.control
    drawn = statistics.logits.gather(-1, columns.tokens[:, None])
    absent = torch.full_like(statistics.entropy, torch.nan)
    fields = (
        columns.tokens,
        statistics.failed | (columns.effective == 0),  # no distribution, or masks that left nothing of it
        statistics.entropy,
        columns.final_entropy.clamp_min(0.0),
        columns.effective,
        torch.full_like(columns.tokens, statistics.logits.shape[-1]),
        columns.top_token_prob,
        control.temperature,
        columns.rows_top_k,
        columns.rows_top_p,
        columns.rows_min_p,
        statistics.varentropy,
        columns.scaled_entropy,
        statistics.top_prob,
        columns.kept_mass.clamp_max(1.0),
        absent if control.saturated is None else control.saturated,
        absent if control.infeasible is None else control.infeasible,
        drawn[:, 0] - statistics.log_normalizer,
        columns.filtered_logprob.clamp_max(0.0),
        (statistics.logits > drawn).sum(-1) + 1,
    )
    packed = torch.stack([field.double() for field in fields], -1)
    return packed if choices is None else torch.cat([packed, choices.flatten(1)], -1)


def unpack(report: Tensor) -> list[tuple[SamplingInfo, list[Choice]]]:
    """Records of all rows from the packed report: the step's one copy from device to host."""
    records = []
    width = len(SamplingInfo._fields)
    for row in report.tolist():
        values = row[:width]
        if values[1]:
            values = [0.0 if math.isnan(value) else value for value in values]
        for i in _INTEGERS:
            values[i] = int(values[i])
        values[1] = bool(values[1])
        choices = [Choice(int(row[i]), row[i + 1], row[i + 2]) for i in range(width, len(row), 3)]
        records.append((SamplingInfo(*values), choices))
    return records
