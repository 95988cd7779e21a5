"""Policies: closed forms, edges, and the solver."""

import math

import pytest
import torch

from adaptive import POLICIES, Edt, EntropyBand, Fixed, Greedy, ParameterError, Phased, Policy, TargetEntropy
from adaptive.entropy import entropy, measure

A = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
C = torch.tensor([0.97, 0.01, 0.01, 0.01]).log()


def control(policy: Policy, *rows: torch.Tensor):
    logits = torch.stack(rows)
    columns = policy.columns([policy] * len(rows), logits.device)
    initial = policy.initial_state()
    state = {name: torch.full((len(rows),), value, dtype=torch.float64) for name, value in initial.items()}
    return policy.control(measure(logits), columns, state)


def temperature(policy: Policy, row: torch.Tensor) -> float:
    return control(policy, row).temperature.item()


def test_edt_by_its_formula():
    edt = Edt(base_temperature=1.0, theta=1.5, base=0.8)
    assert temperature(edt, A) == pytest.approx(0.769875756, abs=1e-6)
    assert temperature(edt, C) == pytest.approx(0.135889818, abs=1e-6)
    assert temperature(edt, torch.zeros(4)) == pytest.approx(0.785491163, abs=1e-6)


def test_edt_at_entropy_zero_takes_the_lowest_temperature():
    one_hot = torch.tensor([0.0, -torch.inf, -torch.inf])
    assert temperature(Edt(min_temperature=0.05), one_hot) == pytest.approx(0.05)
    assert control(Edt(), one_hot).saturated.item()
    assert temperature(Edt(theta=0.0, base_temperature=0.7), one_hot) == pytest.approx(0.7)


def test_entropy_band_is_a_ramp():
    band = EntropyBand(low_entropy=1.0, high_entropy=2.0, temperature_at_low=1.4, temperature_at_high=0.6)
    h = 1.279854226
    assert temperature(band, A) == pytest.approx(1.4 - 0.8 * (h - 1.0), abs=1e-6)
    assert temperature(band, C) == pytest.approx(1.4)
    assert temperature(band, torch.zeros(100)) == pytest.approx(0.6)
    bent = EntropyBand(low_entropy=1.0, high_entropy=2.0, temperature_at_low=1.4, temperature_at_high=0.6, exponent=2)
    assert temperature(bent, A) == pytest.approx(1.4 - 0.8 * (h - 1.0) ** 2, abs=1e-6)


def test_entropy_band_normalizers():
    settings = {"low_entropy": 0.0, "high_entropy": 1.0, "temperature_at_low": 1.0, "temperature_at_high": 2.0}
    row = torch.tensor([0.0, 0.0, -torch.inf, -torch.inf])
    assert temperature(EntropyBand(normalizer="nats", **settings), row) == pytest.approx(1 + math.log(2))
    assert temperature(EntropyBand(normalizer="vocabulary", **settings), row) == pytest.approx(1.5)
    assert temperature(EntropyBand(normalizer="possible", **settings), row) == pytest.approx(2.0)


def test_target_entropy_by_closed_form():
    assert temperature(TargetEntropy(1.0), A) == pytest.approx(0.418101431, abs=1e-6)
    assert temperature(TargetEntropy(1.3), A) == pytest.approx(1.129591031, abs=1e-6)


@pytest.mark.parametrize("spread", [0.05, 0.5, 2.0, 8.0])
@pytest.mark.parametrize("vocab", [4, 300, 30_000])
def test_target_entropy_is_reached_where_the_bounds_allow(spread, vocab):
    rows = torch.randn(8, vocab, generator=torch.Generator().manual_seed(vocab)) * spread
    for target in (0.2, 1.0, 3.0):
        decided = control(TargetEntropy(target, 0.05, 20.0), *rows)
        for row, t, saturated in zip(rows, decided.temperature, decided.saturated, strict=True):
            h = entropy(row.double() / t.double()).item()
            if saturated:
                at_bound = t.item() == pytest.approx(20.0) if h < target else t.item() == pytest.approx(0.05)
                assert at_bound
            else:
                assert h == pytest.approx(target, abs=2e-6)


def test_target_entropy_says_when_it_cannot():
    decided = control(TargetEntropy(1.5), A, torch.zeros(4), torch.tensor([0.0, 0.0, 0.0, -9.0]))
    assert decided.saturated.tolist() == [True, True, True]
    assert decided.infeasible.tolist() == [True, True, True]
    decided = control(TargetEntropy(0.5, max_temperature=3.0), torch.tensor([0.0, 0.0, 0.0, -9.0]))
    assert decided.infeasible.item()  # three tokens tie at the top: entropy never falls below ln 3
    assert decided.temperature.item() == pytest.approx(0.1)
    feasible = control(TargetEntropy(1.2, max_temperature=3.0), torch.tensor([3.0, 0.0, 0.0, -9.0]))
    assert not feasible.infeasible.item()


def test_a_row_is_decided_alike_alone_and_among_others():
    """The solver works on all rows at once; how long a neighbour takes must not show in the bits."""
    rows = torch.randn(12, 40_000, generator=torch.Generator().manual_seed(3)) * torch.linspace(0.1, 9, 12)[:, None]
    policy = TargetEntropy(1.7)
    together = control(policy, *rows).temperature
    for i, row in enumerate(rows):
        assert torch.equal(control(policy, row).temperature[0], together[i])


@pytest.mark.parametrize("kind", [kind for kind in POLICIES.values() if kind is not Phased])
def test_temperatures_are_finite_and_positive_on_every_row(kind):
    rows = [torch.zeros(50), torch.randn(50) * 40, torch.cat([torch.zeros(1), torch.full((49,), -torch.inf)])]
    temperatures = control(kind(), *rows).temperature
    if kind is Greedy:
        assert (temperatures == 0).all()
    else:
        assert (temperatures > 0).all()
        assert temperatures.isfinite().all()


@pytest.mark.parametrize("kind", POLICIES.values())
def test_every_parameter_is_declared_with_help_and_a_default_in_range(kind):
    assert kind.summary()
    for parameter in kind.parameters():
        assert parameter.help.endswith(".")
        assert parameter.default is None or parameter.accepts(parameter.default)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: Fixed(0.0), ["temperature"]),
        (lambda: Fixed(float("inf")), ["temperature"]),
        (lambda: Edt(base=1.5, theta=-1.0), ["theta", "base"]),
        (lambda: Edt(min_temperature=2.0, max_temperature=1.0), ["max_temperature"]),
        (lambda: EntropyBand(low_entropy=3.0, high_entropy=2.0), ["high_entropy"]),
        (lambda: EntropyBand(normalizer="bits"), ["normalizer"]),
        (lambda: EntropyBand(normalizer="vocabulary"), ["high_entropy"]),
        (lambda: TargetEntropy(-1.0, min_temperature=0.0), ["target_entropy", "min_temperature"]),
    ],
)
def test_every_bad_parameter_is_named(make, names):
    with pytest.raises(ParameterError) as raised:
        make()
    assert [name for name, _ in raised.value.violations] == names
