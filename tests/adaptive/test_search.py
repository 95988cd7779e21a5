"""The search behind target_entropy: few visits to a row, and what it found there is passed on."""

from dataclasses import replace

import pytest
import torch

from adaptive import Filters, Fixed, History, Penalties, Rows, RowSettings, TargetEntropy, pool, search
from adaptive.entropy import entropy
from adaptive.sampler import Masks, step
from tests.adaptive.cases import control, random_logits

NARROW = Filters(top_k=40, top_p=0.9)


@pytest.fixture
def visits(monkeypatch):
    """How many rows each visit of the search and of the pools looked at."""
    seen = {"search": [], "pool": []}
    for name, module in (("search", search), ("pool", pool)):

        def counted(ranked, inverse, *rest, name=name, visit=module.tempered, **others):
            seen[name].append(len(inverse))
            return visit(ranked, inverse, *rest, **others)

        monkeypatch.setattr(module, "tempered", counted)
    return seen


@pytest.mark.parametrize("vocab", [500, 32_000])
@pytest.mark.parametrize("spread", [0.5, 2.0, 4.0])
@pytest.mark.parametrize("target", [0.3, 2.0, 4.0])
def test_what_it_tells_of_the_distribution_is_true(vocab, spread, target):
    """Also of rows whose target lies beyond a bound."""
    z = random_logits(6, vocab, spread)
    told = control(TargetEntropy(target, 0.3, 1.5), *z)
    y = (z.double() - z.double().amax(-1, keepdim=True)) / told.temperature[:, None]
    assert told.log_sum == pytest.approx(y.logsumexp(-1), abs=1e-6)
    assert told.scaled_entropy == pytest.approx(entropy(y), abs=1e-6)


@pytest.mark.parametrize("vocab", [32_000, 151_936])
def test_rows_as_models_have_them_are_mostly_visited_once(vocab, visits):
    ranks = torch.arange(1, vocab + 1).float().log()
    z = random_logits(8, vocab, 1.5) - ranks * torch.linspace(1.4, 2.4, 8)[:, None]
    told = control(TargetEntropy(1.5), *z)
    assert visits["search"][0] == 8
    assert sum(visits["search"]) <= 12
    assert not told.saturated.any()


def test_flat_rows_are_visited_twice(visits):
    control(TargetEntropy(2.0, 0.01), *random_logits(8, 32_000, 1.0))
    assert visits["search"][0] == 8
    assert sum(visits["search"]) <= 16


def test_no_visit_is_made_for_what_is_known(visits):
    z = random_logits(3, 32_000, 4.0)
    settings = [RowSettings(TargetEntropy(1.0), NARROW), RowSettings(Fixed(0.7), NARROW)]
    step(z, Rows([settings[0]] * 3))
    assert visits["pool"] == []
    together = step(z, Rows([settings[0], settings[1], settings[0]]))[1].records()
    assert visits["pool"] == [1]
    alone = [step(z[i : i + 1], Rows([settings[i % 2]]))[1].records()[0] for i in range(3)]
    assert str(together) == str(alone)  # NaN is not equal to itself


@pytest.mark.parametrize("way", ["bias", "penalty", "mask"])
def test_what_is_known_of_the_original_logits_is_not_taken_for_changed_ones(way):
    """Nor does a change show in the bits of a neighbour."""
    z = random_logits(2, 32_000, 4.0)
    likeliest = int(z[1].argmax())
    plain = RowSettings(TargetEntropy(1.0), NARROW)
    other, masks, changed = plain, None, z[1].double()
    if way == "bias":
        other = replace(plain, bias={likeliest: -5.0})
        changed[likeliest] -= 5.0
    elif way == "penalty":
        other = replace(plain, penalties=Penalties(repetition=2.0), history=History((likeliest,)))
        changed[likeliest] /= 2.0
    else:
        masks = Masks(ruled_out=(torch.tensor([1]), torch.tensor([likeliest])))
        changed[likeliest] = -torch.inf
    neighbour, info = (info for info, _ in step(z, Rows([plain, other]), masks)[1].records())
    alone, _ = step(z[:1], Rows([plain]))[1].records()[0]
    assert str(neighbour) == str(alone)
    assert abs(info.scaled_entropy - 1.0) > 0.01
    assert info.scaled_entropy == pytest.approx(entropy(changed / info.temperature).item(), abs=1e-6)
