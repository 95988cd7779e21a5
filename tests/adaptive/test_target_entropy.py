"""The solver of target_entropy: exact where a temperature exists, truthful where none does."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive import TargetEntropy
from tests import oracle
from tests.adaptive.cases import INF, A, control, edge_rows, random_logits

EXACT = 1e-6
"""Nats; what is promised."""


def entropy_at(row: torch.Tensor, temperature: float) -> float:
    z = row.numpy().astype(np.float64)
    return oracle.entropy(oracle.log_softmax((z - z.max()) / temperature))


def check(rows, target, low, high):
    """The promise, for each row: reached to 1e-6, or at the bound beyond which it lies, and said so."""
    decided = control(TargetEntropy(target, low, high), *rows)
    for row, t, saturated, infeasible in zip(
        rows, decided.temperature.tolist(), decided.saturated.tolist(), decided.infeasible.tolist(), strict=True
    ):
        assert low * (1 - 1e-12) <= t <= high * (1 + 1e-12)
        least, most, got = entropy_at(row, low), entropy_at(row, high), entropy_at(row, t)
        wished = f"{row} target {target} in {low} to {high}: T {t} gives {got}, bounds {least} to {most}"
        if saturated:
            if least <= target <= most:  # only where rounding decides
                assert min(target - least, most - target) <= EXACT, wished
            assert t == pytest.approx(high if target > (least + most) / 2 else low, rel=1e-9), wished
        else:
            assert got == pytest.approx(target, abs=EXACT), wished
            assert not infeasible, wished


def test_by_closed_form():
    """Also its slope: dH/dT = Var / T^3 = 1.116 at the solution for 1.0."""
    for target, t in ((1.0, 0.418101431), (1.3, 1.129591031)):
        assert control(TargetEntropy(target), A).temperature.item() == pytest.approx(t, abs=2e-7)
    near = [control(TargetEntropy(1.0 + e), A).temperature.item() for e in (-1e-3, 1e-3)]
    assert 2e-3 / (near[1] - near[0]) == pytest.approx(1.116273501, rel=1e-4)
    two = torch.tensor([0.75, 0.25]).log()  # at T the odds are 3 ** (1 / T): T = 1 has 0.562335145
    assert control(TargetEntropy(0.562335145), two).temperature.item() == pytest.approx(1.0, abs=1e-7)


@pytest.mark.parametrize("spread", [1e-4, 0.01, 0.3, 3.0, 50.0, 1e4])
@pytest.mark.parametrize("vocab", [2, 7, 500, 5000])
def test_every_target_on_random_rows(spread, vocab):
    rows = random_logits(4, vocab, spread, vocab)
    for target in (0.0, 1e-5, 1e-3, 0.1, 0.69, 1.0, 2.5, 5.0):
        check(rows, target, 0.1, 2.0)
        check(rows, target, 1e-3, 1e3)


@pytest.mark.parametrize("gap", [1e-7, 1e-6, 1e-4, 1e-2, 0.1])
def test_targets_near_what_is_possible_at_all(gap):
    """Near ln V and near ln ties, where varentropy is tiny and a step of Newton leaps far."""
    rows = torch.stack([*edge_rows(12).values()])
    for low, high in ((0.1, 2.0), (1e-3, 1e4)):
        for edge in (math.log(12), math.log(6), math.log(2), 0.0):
            for target in (edge - gap, edge + gap):
                check(rows, max(target, 0.0), low, high)


@pytest.mark.parametrize("gap", [0.0, 1e-9, 1e-7, 1e-5, 1e-4, 1e-3])
def test_targets_near_what_the_bounds_allow(gap):
    for spread in (0.3, 2.0, 8.0):
        for row in random_logits(4, 60, spread, 9):
            for bound in (0.5, 1.5):
                for sign in (-1, 1):
                    check([row], max(entropy_at(row, bound) + sign * gap, 0.0), 0.5, 1.5)


def near_ties(gap, vocab=40):
    row = torch.full((vocab,), -9.0)
    row[:3] = torch.tensor([0.0, -gap, -2 * gap])
    return row


@pytest.mark.parametrize("gap", [1e-6, 1e-4, 1e-2, 0.3])
def test_near_ties_at_the_top(gap):
    """From 0 nats at a tiny temperature to a plateau at ln 3, and from there on to ln V: three slopes in one row."""
    for target in (0.05, 0.7, 1.0, 1.0985, math.log(3), 1.0987, 1.2, 3.0):
        for row in (near_ties(gap), near_ties(gap, 3000)):
            check([row], target, 0.1, 2.0)
            check([row], target, 1e-8, 1e3)


def test_infeasible_means_that_no_temperature_grants_it():
    def infeasible(target, row):
        return bool(control(TargetEntropy(target), row).infeasible.item())

    tie = torch.tensor([0.0, 0.0, -1.0, -INF])
    for target, expected in ((0.5, True), (math.log(2) - 1e-6, True), (0.8, False), (1.09, False), (1.0987, True)):
        assert infeasible(target, tie) == expected, target
    assert infeasible(math.log(4), A)  # only an infinite temperature would do
    assert not infeasible(1.38, A)
    assert not infeasible(math.log(4), torch.zeros(4))  # every temperature does
    one = torch.tensor([3.0, -INF, -INF])
    assert infeasible(0.3, one)
    assert not infeasible(0.0, one)


rows = st.lists(
    st.floats(-40, 40, width=32) | st.sampled_from([0.0, 1.0, -INF, 1.0000001]), min_size=2, max_size=40
).filter(lambda row: any(math.isfinite(z) for z in row))


@settings(max_examples=250, deadline=None)
@given(rows, st.floats(0, 4), st.sampled_from([(0.1, 2.0), (0.9, 1.1), (1.0, 1.0), (1e-4, 1e4), (2.0, 50.0)]))
def test_any_row_any_target(row, target, bounds):
    check([torch.tensor(row)], target, *bounds)


def test_how_long_a_neighbour_takes_does_not_show_in_the_bits():
    batch = torch.cat([random_logits(8, 40_000) * torch.linspace(0.001, 9, 8)[:, None], near_ties(1e-4, 40_000)[None]])
    policy = TargetEntropy(1.0987, 1e-6, 1e3)
    together = control(policy, *batch).temperature
    for i, row in enumerate(batch):
        assert torch.equal(control(policy, row).temperature[0], together[i])
