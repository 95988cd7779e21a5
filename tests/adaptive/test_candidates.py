"""The most likely tokens, and rows that look at them alone: the same as looking at everything."""

import pytest
import torch

import adaptive
from adaptive import Filters, Fixed, Greedy, Mirostat, Rows, RowSettings, pool
from adaptive.candidates import COUNT, best
from adaptive.sampler import shape

WISHES = [
    RowSettings(Fixed(0.7), Filters(top_k=50, top_p=0.9, min_p=0.02)),
    RowSettings(Fixed(0.7), Filters(top_p=0.9)),
    RowSettings(Fixed(1.0), Filters(top_k=500, top_p=0.5)),
    RowSettings(Fixed(0.5), Filters(min_p=0.1, typical_p=0.8)),
    RowSettings(Fixed(1.3), Filters(top_k=64, xtc_probability=1.0, xtc_threshold=0.05), seed=4),
    RowSettings(Greedy(), Filters(top_p=0.9)),
    RowSettings(Mirostat(tau=1.0), Filters(top_p=0.95)),
]


def logits(spread, rounded, vocab=5003):
    z = torch.randn(len(WISHES), vocab, generator=torch.Generator().manual_seed(int(spread * 10))) * spread
    return z.mul(4).round().div(4) if rounded else z  # rounded: many ties, also at the edges of filters


@pytest.mark.parametrize("vocab", [3, 80, 81, 1295, 1296, 32_000, 32_001, 70_001])
@pytest.mark.parametrize("rounded", [False, True])
def test_the_candidates_are_the_largest_logits(vocab, rounded):
    z = logits(2.0, rounded, vocab)
    found = best(z, COUNT)
    assert torch.equal(found.values, z.sort(-1, descending=True).values[:, :COUNT])
    assert torch.equal(z.gather(-1, found.ids), found.values)
    assert all(len(set(ids)) == len(ids) for ids in found.ids.tolist())


@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0, 6.0])
@pytest.mark.parametrize("rounded", [False, True])
def test_a_row_that_looks_at_candidates_alone_has_the_distribution_of_one_that_looks_at_everything(spread, rounded):
    z = logits(spread, rounded)
    rows, patient = Rows(WISHES), Rows(WISHES)
    patient.quick, patient.slow, patient.quick_index = [], list(range(len(WISHES))), None
    quick, whole = shape(z, rows), shape(z, patient)
    assert whole.pools[0].ids is None
    assert torch.allclose(quick.log_probabilities().exp(), whole.log_probabilities().exp(), atol=2e-6)
    for name, column in whole.figures.items():
        assert torch.allclose(quick.figures[name], column, atol=1e-5), name


def test_peaked_rows_look_at_candidates_alone_and_flat_ones_at_everything():
    for spread, kinds in ((6.0, [False]), (0.1, [False, True])):
        pools = shape(logits(spread, False)[:2], Rows(WISHES[:2])).pools
        assert [pool.ids is None for pool in pools] == kinds


def test_the_rank_of_a_token_beyond_the_candidates_is_counted():
    z = logits(1.0, False)[:1]
    order = z[0].argsort(descending=True)
    for place in (0, COUNT - 1, COUNT, 4000):
        report = adaptive.step(z, Rows([RowSettings()]), tokens=order[place : place + 1])[1]
        assert report.records()[0][0].rank == place + 1


@pytest.mark.parametrize("temperature", [0.5, 0.8, 1.3, 2.0])
def test_what_flat_rows_are_spared_changes_nothing(temperature, monkeypatch):
    """After a step in which no row could be told of, the next asks first whether it is plain that none can."""
    z = torch.randn(6, 4096, generator=torch.Generator().manual_seed(0)) * 0.4
    settings = [RowSettings(Fixed(temperature), Filters(top_p=p), seed=7) for p in (0.7, 0.8, 0.9, 0.95, 0.99, 0.999)]
    rows, fresh = Rows(settings), Rows(settings)
    tried = []
    first = pool.quick
    monkeypatch.setattr(pool, "quick", lambda *given: tried.append(given[2]) or first(*given))
    expected = shape(z, fresh)
    assert fresh.flat and len(tried) == 1
    adaptive.step(z, rows)
    got = shape(z, rows)
    assert len(tried) == 2, "it was tried again"
    assert torch.equal(got.probabilities, expected.probabilities)
    for name, column in got.figures.items():
        assert torch.equal(column, expected.figures[name]), name


def test_a_row_that_can_be_told_of_is_told_of_after_flat_ones():
    flat = torch.randn(2, 4096, generator=torch.Generator().manual_seed(0)) * 0.4
    peaked = flat.clone()
    peaked[0, 17] = 12.0
    settings = [RowSettings(Fixed(0.8), Filters(top_p=0.9), seed=7)] * 2
    rows = Rows(settings)
    adaptive.step(flat, rows)
    assert rows.flat
    got, expected = shape(peaked, rows), shape(peaked, Rows(settings))
    assert not rows.flat and len(got.pools) == 2
    assert torch.equal(got.probabilities, expected.probabilities)


@pytest.mark.parametrize("vocab", [8, 5003])
@pytest.mark.parametrize("filters", [Filters(top_k=7), Filters(top_k=500), Filters(top_p=0.99999), Filters(min_p=1e-9)])
def test_what_the_model_rules_out_is_never_counted_as_left(vocab, filters):
    """Where fewer tokens are possible than top_k keeps, the last of those is at -inf."""
    z = torch.full((2, vocab), -torch.inf)
    z[:, 1:7] = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)) * 0.1
    z[1, 7] = 0.0
    report = adaptive.step(z, Rows([RowSettings(Fixed(0.9), filters)] * 2))[1]
    assert [info.effective_vocab_size for info, _ in report.records()] == [6, 7]
