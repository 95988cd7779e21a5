"""Sampling info: columns on the device, one packed tensor to the host, one record a token there."""

import dataclasses
import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Fault(enum.IntEnum):
    """Why a row could not be drawn."""

    NONE = 0
    LOGITS = 1
    """The logits were no distribution, or masks left nothing of it."""
    POLICY = 2
    """The policy raised, or gave no temperature or no distribution."""


class SamplingInfo(NamedTuple):
    """How one token came to be drawn. Entropies in nats; NaN where a value was not computed.

    fault: a `Fault`; with any but NONE nothing else of the record means anything. top_k 0, top_p 1 and min_p 0 mean
    that the filter was off. state: the policy's after this token, in the order of its declaration.
    """

    token_id: int
    fault: int
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
    constraint_mass: float
    logprob: float
    filtered_logprob: float
    rank: int
    state: tuple[float, ...] = ()

    @property
    def entropy_change(self) -> float:
        """final - original entropy, nats."""
        return self.final_entropy - self.original_entropy


class Choice(NamedTuple):
    """A token that could have been drawn: log probabilities at step 1 and, NaN if it was filtered, at step 6."""

    token_id: int
    logprob: float
    filtered_logprob: float


WIDTH = len(SamplingInfo._fields) - 1
_FAULT, _VOCABULARY, _RANK, _TEMPERATURE = (
    SamplingInfo._fields.index(name) for name in ("fault", "original_vocab_size", "rank", "temperature")
)
_BOUNDS = [
    (SamplingInfo._fields.index(name), low, high)
    for name, low, high in (
        ("final_entropy", 0.0, math.inf),
        ("kept_mass", 0.0, 1.0),
        ("constraint_mass", 0.0, 1.0),
        ("filtered_logprob", -math.inf, 0.0),
    )
]
_INTEGERS = [i for i, kind in enumerate(SamplingInfo.__annotations__.values()) if kind is int]


@dataclass(slots=True)
class Report:
    """All columns of a step in one float64 tensor `[rows, n]`, which holds their integers exactly: one copy to the
    host. After the record of a row come the figures of its policy's state, and (id, logprob, filtered logprob) of each
    candidate. states: how many figures the state of each row's policy has. faults: what the policies of faulty rows
    said, by row. copy: on its way to the host, and what tells that it is there."""

    packed: Tensor
    vocab_size: int
    states: list[int]
    faults: dict[int, str] = dataclasses.field(default_factory=dict)
    copy: tuple[Tensor, Any] | None = None

    def start_copy(self) -> None:
        """Begin the copy to the host without waiting for it, so that `records` finds it there later."""
        if self.packed.device.type == "cuda":
            host = torch.empty(self.packed.shape, dtype=self.packed.dtype, pin_memory=True)
            host.copy_(self.packed, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
            self.copy = host, arrived

    def records(self) -> list[tuple[SamplingInfo, list[Choice]]]:
        """A record and the candidates of each row: the step's one copy from device to host."""
        records = []
        end = WIDTH + max(self.states, default=0)
        packed = self.packed
        if self.copy is not None:
            packed, arrived = self.copy
            arrived.synchronize()
        for row, figures in zip(packed.tolist(), self.states, strict=True):
            values = row[:WIDTH]
            if values[_FAULT]:
                values = [0.0 if math.isnan(value) else value for value in values]
            _finish(values, self.vocab_size)
            choices = [Choice(int(row[i]), row[i + 1], row[i + 2]) for i in range(end, len(row), 3)]
            records.append((SamplingInfo._make([*values, tuple(row[WIDTH : WIDTH + figures])]), choices))
        return records


def _finish(values: list[float], vocab_size: int) -> None:
    """What is cheaper for a number than for a tensor, in place: whole numbers, and bounds that rounding oversteps."""
    values[_VOCABULARY] = vocab_size
    values[_RANK] += 1
    if values[_TEMPERATURE] == 0.0:  # greedy
        values[_TEMPERATURE] = math.nan
    for i in _INTEGERS:
        values[i] = int(values[i])
    for i, low, high in _BOUNDS:
        if values[i] < low:
            values[i] = low
        elif values[i] > high:
            values[i] = high


def shown(filters: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of filters as a record has them, `[rows]`; NaN is off."""
    return {name: filters[name].nan_to_num(off) for name, off in (("top_k", 0.0), ("top_p", 1.0), ("min_p", 0.0))}


def field(packed: Tensor, name: str) -> Tensor:
    """A column of the packed tensor of a Report, `[rows]`, in place."""
    return packed[:, SamplingInfo._fields.index(name)]


def fault_of(maximum: Tensor, temperature: Tensor) -> Tensor:
    """Why each row cannot be drawn: a `Fault`, float64 `[rows]`. maximum: the largest logit, not finite if they are no
    distribution."""
    of_policy = torch.where(temperature.isfinite(), float(Fault.NONE), float(Fault.POLICY))
    return torch.where(maximum.isfinite(), of_policy, float(Fault.LOGITS)).double()


def pack(
    best: Tensor,
    tokens: Tensor,
    logit: Tensor,
    changed: Tensor,
    top: Tensor,
    maximum: Tensor,
    log_normalizer: Tensor,
    temperature: Tensor,
    inverse: Tensor,
    log_sum: Tensor,
    log_mass: Tensor,
    given: Mapping[str, Tensor | None],
) -> Tensor:
    """The packed tensor of a Report, float64 `[rows, WIDTH]`: records without states and candidates.

    best: the largest logits, before anything changed them `[rows, n]`; the rank counts only these. logit: of the
    tokens, like them; changed: after step 2, and top the largest then, all `[rows, 1]`. maximum: see `fault_of`.
    inverse: 1 / temperature. log_sum: of the whole row after temperature, log_mass: of what is left of it, logarithms.
    given: the other fields, by name; None, or absent, if nobody has such a value.
    """
    found = {
        "token_id": tokens.double(),
        "fault": fault_of(maximum, temperature),
        "temperature": temperature,
        "logprob": logit[:, 0] - log_normalizer,
        "filtered_logprob": (changed - top)[:, 0].double() * inverse - log_sum - log_mass,
        "rank": (best > logit).sum(-1).double(),
    } | dict(given)
    absent = torch.full_like(log_normalizer, torch.nan)
    fields = [found.get(name) for name in SamplingInfo._fields[:WIDTH]]
    return torch.stack([absent if column is None else column for column in fields], -1)
