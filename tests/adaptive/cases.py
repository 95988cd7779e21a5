"""What the tests of `adaptive` share: every kind of policy, filter and penalty, rows at every edge, and short calls."""

import math

import torch

import adaptive
from adaptive import (
    AdaptiveP,
    Bell,
    Edt,
    EntropyBand,
    EntropyFeedback,
    EntropyPolynomial,
    Filters,
    Fixed,
    Greedy,
    History,
    Mirostat,
    Penalties,
    Policy,
    Quadrant,
    Rows,
    RowSettings,
    SamplingInfo,
    TargetEntropy,
)
from adaptive.entropy import measure
from adaptive.policies import Control

A = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
C = torch.tensor([0.97, 0.01, 0.01, 0.01]).log()
H_A, V_A, H_C, V_C = 1.279854226, 0.180921687, 0.167700537, 0.609004234
"""Entropy in nats and varentropy in nats squared of the two rows."""

INF = math.inf

EVERY_POLICY: list[Policy] = [
    Fixed(0.7),
    Greedy(),
    EntropyBand(exponent=1.3),
    EntropyBand(0.0, 1.0, 0.3, 1.3, 0.7, "vocabulary"),
    EntropyBand(0.0, 1.0, 0.3, 1.3, 2.5, "possible"),
    Edt(),
    TargetEntropy(1.2),
    EntropyFeedback(1.1, "surprisal", half_life=2.7, kp=0.8, ki=0.1),
    EntropyFeedback(0.9, half_life=5.0),
    Mirostat(1.5, 0.3),
    Mirostat(1.5, 0.3, surprise="renormalized", temperature=0.8),
    Quadrant(low_low_top_k=2, low_high_top_p=0.6, high_low_min_p=0.1, entropy_gain=0.2, varentropy_gain=0.1),
    AdaptiveP(0.3),
    Bell(),
    EntropyPolynomial(),
]

EVERY_FILTER: list[Filters] = [
    Filters(top_k=5),
    Filters(top_p=0.8),
    Filters(min_p=0.1),
    Filters(typical_p=0.7),
    Filters(epsilon_cutoff=0.02),
    Filters(eta_cutoff=0.3),
    Filters(top_n_sigma=1.3),
    Filters(top_h=0.5),
    Filters(top_h=0.5, top_h_variant="hugging_face"),
    Filters(p_less=True),
    Filters(xtc_probability=0.6, xtc_threshold=0.05),
    Filters(2000, 0.95, 0.001, 0.97, 1e-6, 1e-5, 4.0, 0.97, p_less=False, xtc_probability=0.3),
]

TEXT = (3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 1, 4, 1)
EVERY_PENALTY: list[Penalties] = [
    Penalties(repetition=1.3),
    Penalties(presence=0.7),
    Penalties(frequency=0.4),
    Penalties(dry_multiplier=0.8),
    Penalties(1.2, 0.3, -0.2, 0.5, 1.3, 1, 12),
]


def every_kind_of_row() -> list[RowSettings]:
    """Each policy, each filter and each penalty at least twice, in different company."""
    rows = [RowSettings(policy, seed=i) for i, policy in enumerate(EVERY_POLICY)]
    for i, chosen in enumerate(EVERY_FILTER + EVERY_FILTER[::-1]):
        rows.append(RowSettings(EVERY_POLICY[(5 * i) % len(EVERY_POLICY)], chosen, seed=100 + i))
    for i, penalties in enumerate(EVERY_PENALTY + EVERY_PENALTY[::-1]):
        history = History(TEXT[: 10 + i], TEXT[i:], frozenset({9}))
        policy, chosen = EVERY_POLICY[(4 * i + 2) % len(EVERY_POLICY)], EVERY_FILTER[i]
        rows.append(RowSettings(policy, chosen, seed=2**63 + i, penalties=penalties, history=history, bias={i: 1.5}))
    return rows


def edge_rows(vocab: int = 12) -> dict[str, torch.Tensor]:
    """Rows at the edges of what logits can be."""
    generator = torch.Generator().manual_seed(vocab)
    plain = torch.randn(vocab, generator=generator)
    one = torch.full((vocab,), -INF)
    one[3] = 7.0
    two = torch.full((vocab,), -INF)
    two[1:3] = 0.5
    return {
        "uniform": torch.zeros(vocab),
        "single finite token": one,
        "two that tie": two,
        "one-hot": torch.where(torch.arange(vocab) == 4, 0.0, -200.0),
        "nearly one-hot": torch.where(torch.arange(vocab) == 4, 0.0, -18.0),
        "half ruled out": plain.masked_fill(torch.arange(vocab) % 2 == 0, -INF),
        "ties": (plain * 1.5).round(),
        "huge": plain * 1e30,
        "largest float": torch.where(torch.arange(vocab) == 4, 3.4e38, -3.4e38),
        "tiny": plain * 1e-6,
        "far from zero": plain + 1e4,
        "plain": plain,
    }


def control(policy: Policy, *rows: torch.Tensor, state: dict[str, float] | None = None) -> Control:
    """What a policy decides for some rows, all in the same state."""
    columns = policy.columns([policy] * len(rows), rows[0].device)
    values = policy.initial_state() if state is None else state
    given = {name: torch.full((len(rows),), value, dtype=torch.float64) for name, value in values.items()}
    return policy.control(measure(torch.stack(rows)), columns, given)


def temperature(policy: Policy, row: torch.Tensor, state: dict[str, float] | None = None) -> float:
    """The temperature of one row."""
    return control(policy, row, state=state).temperature.item()


def infos(logits: torch.Tensor, rows: Rows, *rest) -> list[SamplingInfo]:
    """The records of a step."""
    return [info for info, _ in adaptive.step(logits, rows, *rest)[1].records()]


def survivors(logits: torch.Tensor) -> list[int]:
    """The tokens that a filter left."""
    return torch.isfinite(logits).nonzero().flatten().tolist()


def random_logits(rows: int, vocab: int, spread: float = 3.0, seed: int = 0) -> torch.Tensor:
    """Rows of normal logits."""
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * spread
