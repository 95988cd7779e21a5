"""Every policy against its published formula: closed forms by hand, and the float64 oracle on random rows."""

import math

import numpy as np
import pytest
import torch

from adaptive import Bell, Edt, EntropyBand, EntropyPolynomial, Filters, Fixed, Greedy, Quadrant, Rows, RowSettings
from adaptive.policies.quadrant import CORNERS
from tests import oracle
from tests.adaptive.cases import H_A, H_C, INF, V_A, V_C, A, C, control, edge_rows, infos, temperature

UNIFORM = torch.zeros(4)
ONE_HOT = torch.tensor([0.0, -INF, -INF, -INF])
ROWS = [
    torch.randn(vocab, generator=torch.Generator().manual_seed(i)) * spread
    for i, (vocab, spread) in enumerate((v, s) for v in (5, 300, 4000) for s in (0.1, 1.0, 2.0, 3.0, 5.0, 9.0))
]


def entropy_of(row):
    return oracle.entropy(oracle.log_softmax(row.numpy().astype(np.float64)))


def by_formula(policy, h, vocab, possible):
    """The temperature by the documented formula, before bounds."""
    match policy:
        case EntropyBand():
            measure = {"nats": h, "vocabulary": h / math.log(vocab), "possible": h / math.log(max(possible, 2))}
            return oracle.band_temperature(
                measure[policy.normalizer], policy.low_entropy, policy.high_entropy, policy.temperature_at_low,
                policy.temperature_at_high, policy.exponent,
            )  # fmt: skip
        case Edt():
            return oracle.edt_temperature(h, policy.base_temperature, policy.theta, policy.base, 0.0, INF)
        case Bell():
            share = h / math.log(vocab)
            return oracle.bell_temperature(share, policy.base_temperature, policy.peak, policy.center, policy.width)
        case EntropyPolynomial():
            return oracle.polynomial_temperature(h)
    raise AssertionError(policy)


BY_FORMULA = [
    EntropyBand(),
    EntropyBand(1.0, 6.0, 0.2, 1.8, 2.5),
    EntropyBand(0.1, 0.9, 1.7, 0.4, 0.5, "vocabulary"),
    EntropyBand(0.0, 1.0, 0.0, 2.0, 1.0, "possible"),
    Edt(),
    Edt(0.6, 0.1, 0.8),
    Edt(1.3, 0.0),
    Edt(1.3, 2.0, 1.0),
    Bell(),
    Bell(1.0, -0.8, 0.5, 0.2),
    EntropyPolynomial(),
]


@pytest.mark.parametrize("policy", BY_FORMULA, ids=str)
def test_the_temperature_is_that_of_the_formula_within_the_bounds(policy):
    """To 2e-5 relative: the entropy is measured in float32. Of edge rows too."""
    for row in [*ROWS, *edge_rows().values()]:
        possible = int((row > -INF).sum())
        wish = by_formula(policy, entropy_of(row), len(row), possible)
        decided = control(policy, row)
        expected = oracle.clip(wish, policy.min_temperature, policy.max_temperature)
        assert decided.temperature.item() == pytest.approx(expected, rel=2e-5), row
        if abs(wish / expected - 1) > 1e-4:
            assert bool(decided.saturated.item())
        if policy.min_temperature * 1.0001 < wish < policy.max_temperature * 0.9999:
            assert not bool(decided.saturated.item())


def test_entropy_band_by_hand():
    band = EntropyBand(1.0, 2.0, 1.4, 0.6, 2.0)
    assert temperature(band, A) == pytest.approx(1.4 - 0.8 * (H_A - 1.0) ** 2, abs=1e-6)
    assert temperature(band, C) == pytest.approx(1.4)
    assert temperature(band, torch.zeros(100)) == pytest.approx(0.6)
    half = torch.tensor([0.0, 0.0, -INF, -INF])  # ln 2: half of ln 4, all of ln 2
    shares = {n: EntropyBand(0.0, 1.0, 1.0, 2.0, normalizer=n) for n in ("nats", "vocabulary", "possible")}
    expected = {"nats": 1 + math.log(2), "vocabulary": 1.5, "possible": 2.0}
    assert {n: temperature(p, half) for n, p in shares.items()} == pytest.approx(expected)
    assert temperature(EntropyBand(temperature_at_low=0.0, min_temperature=0.05), ONE_HOT) == 0.05


def test_edt_by_hand():
    for row, t in ((A, 0.769875756), (C, 0.135889818), (UNIFORM, 0.785491163)):
        assert temperature(Edt(1.0, 1.5, 0.8), row) == pytest.approx(t, abs=1e-6)
    assert temperature(Edt(min_temperature=0.05), ONE_HOT) == 0.05
    assert temperature(Edt(0.7, 0.0), ONE_HOT) == pytest.approx(0.7)
    assert temperature(Edt(0.7, 2.0, 1.0), ONE_HOT) == pytest.approx(0.7)  # 1 to any power


def test_bell_by_hand():
    """On a uniform row the share is 1; one width from the center the bell has e^-1/2 of its height."""
    assert temperature(Bell(0.6, 0.5, 1.0, 0.1), UNIFORM) == pytest.approx(1.1)
    assert temperature(Bell(0.6, 0.5, 0.8, 0.2), UNIFORM) == pytest.approx(0.6 + 0.5 * math.exp(-0.5))
    assert temperature(Bell(0.6, 0.5, 0.0, 0.2), ONE_HOT) == pytest.approx(1.1)
    assert temperature(Bell(0.6, -5.0, 0.0, 0.2), ONE_HOT) == pytest.approx(0.1)


def row_of_entropy(h: float) -> torch.Tensor:
    """A row of 400 tokens with this entropy, by the oracle's own bisection."""
    z = np.linspace(0.0, 8.0, 400)
    return torch.tensor(z / oracle.target_temperature(z, h, 1e-3, 1e3))


def test_entropy_polynomial_by_hand():
    """Sharpens between .848 and 5.944 nats only, most at 4.41 where beta is 2.421."""
    for h, t in ((1.0, 0.787401575), (0.4, 1.0), (0.84, 1.0), (4.41, 1 / 2.421), (5.95, 1.0)):
        assert temperature(EntropyPolynomial(), row_of_entropy(h)) == pytest.approx(t, abs=2e-4 if h > 4 else 1e-6)
    assert temperature(EntropyPolynomial(), row_of_entropy(0.86)) < 1.0
    assert temperature(EntropyPolynomial(), row_of_entropy(5.93)) < 1.0


CORNER_ACTIONS = Quadrant(
    low_entropy=0.5, high_entropy=1.0, low_varentropy=0.3, high_varentropy=0.5,
    temperature=0.9, top_k=9, low_low_temperature=0.2, low_low_top_k=1, low_high_temperature=0.3, low_high_top_p=0.31,
    high_low_temperature=0.4, high_low_min_p=0.04, high_high_temperature=0.5, high_high_top_k=5,
)  # fmt: skip
WILD = torch.cat([torch.zeros(1), torch.full((200,), -4.5)])  # H 3.83, Var 2.6
CALM = torch.tensor([0.0, -12.0, -12.0])
BETWEEN = torch.tensor([0.55, 0.3, 0.1, 0.05]).log()


@pytest.mark.parametrize(
    ("corner", "row"),
    [("low_low", CALM), ("low_high", C), ("high_low", A), ("high_high", WILD), ("", BETWEEN)],
)
def test_quadrant_takes_the_action_of_its_corner(corner, row):
    log_p = oracle.log_softmax(row.numpy().astype(np.float64))
    h, v = oracle.entropy(log_p), oracle.varentropy(log_p)
    is_corner = {
        "low_low": h < 0.5 and v < 0.3,
        "low_high": h <= 1.0 and v > 0.5,
        "high_low": h > 1.0 and v < 0.3,
        "high_high": h > 1.0 and v > 0.5,
    }
    assert [name for name in CORNERS if is_corner[name]] == ([corner] if corner else [])
    decided = control(CORNER_ACTIONS, row)
    prefix = f"{corner}_" if corner else ""
    assert decided.temperature.item() == getattr(CORNER_ACTIONS, f"{prefix}temperature")
    for name in ("top_k", "top_p", "min_p"):
        expected = getattr(CORNER_ACTIONS, prefix + name)
        got = getattr(decided, name).item()
        assert math.isnan(got) if expected is None else got == expected


def test_quadrant_sets_filters_in_place_of_the_requests_only_where_it_says_so():
    rows = Rows([RowSettings(CORNER_ACTIONS, Filters(top_k=2, top_p=0.7, min_p=0.01))] * 2)
    calm, wild = infos(torch.stack([torch.nn.functional.pad(CALM, (0, 198), value=-INF), WILD]), rows)
    assert (calm.top_k, calm.top_p, calm.min_p) == (1, 0.7, 0.01)
    assert (wild.top_k, wild.top_p, wild.min_p) == (5, 0.7, 0.01)


def test_quadrants_plain_temperature_follows_entropy_by_its_gains():
    policy = Quadrant(0.0, 9.0, 0.0, 9.0, temperature=0.5, entropy_gain=0.3, varentropy_gain=0.2)
    assert temperature(policy, A) == pytest.approx(0.5 * (1 + 0.3 * H_A + 0.2 * V_A), rel=1e-6)
    assert temperature(policy, C) == pytest.approx(0.5 * (1 + 0.3 * H_C + 0.2 * V_C), rel=1e-6)


def test_fixed_and_greedy():
    assert temperature(Fixed(0.37), A) == 0.37
    assert temperature(Greedy(), A) == 0.0
    info = infos(torch.tensor([[1.0, 3.0, 3.0]]), Rows([RowSettings(Greedy())]))[0]
    assert (info.token_id, info.final_entropy, info.effective_vocab_size, info.top_token_prob) == (1, 0.0, 1, 1.0)
    assert math.isnan(info.temperature)
    assert math.isnan(info.scaled_entropy)
