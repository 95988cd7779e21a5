"""Kernels, of a GPU in Triton's interpreter and of the CPU compiled, give what the plain way gives."""

import pytest
import torch

from adaptive import (
    Fault,
    Filters,
    Fixed,
    Greedy,
    Mirostat,
    Penalties,
    Quadrant,
    Rows,
    RowSettings,
    TargetEntropy,
)
from adaptive.cpu import fused as of_cpu
from adaptive.draw import uniform
from adaptive.penalties import History
from adaptive.policies import Control
from adaptive.pool import Setting
from tests.adaptive.ways import FILTERS, SPREADS, VOCAB, assert_same, fusedly, logits_of, plainly
from tests.compiler import needs_compiler
from tests.interpreted import fused

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of infinities in the interpreter


@pytest.fixture(params=["gpu", pytest.param("cpu", marks=needs_compiler)])
def kernels(request, monkeypatch):
    if request.param == "cpu":
        return of_cpu
    # Blocks and tiles so small that a row has many of them.
    for name, value in {"BLOCK": 16, "KEEP": 8, "TILE": 128}.items():
        monkeypatch.setattr(fused, name, value)
    return fused


@pytest.mark.parametrize("spread", SPREADS)
def test_leading_filters_leave_and_draw_what_the_plain_way_does(kernels, spread):
    settings = [RowSettings(Fixed(0.8), filters, seed=seed) for seed, filters in enumerate(FILTERS)]
    logits = logits_of(len(settings), SPREADS[spread])
    assert_same(fusedly(kernels, logits, settings), plainly(logits, settings))


def test_bfloat16_logits_with_many_ties_split_at_the_edge_as_the_plain_way_does(kernels):
    settings = [RowSettings(Fixed(1.2), filters, seed=seed) for seed, filters in enumerate(FILTERS[1:7])]
    logits = (logits_of(len(settings), 6.0).round() / 4).bfloat16()
    assert_same(fusedly(kernels, logits, settings), plainly(logits, settings))


def test_of_equals_top_p_keeps_the_higher_ids(kernels):
    settings = [RowSettings(filters=Filters(top_p=0.3), seed=seed) for seed in range(4)]
    drawn = [info.token_id for info, _ in fusedly(kernels, torch.zeros(4, 400), settings)]
    assert min(drawn) >= 280


def test_of_equals_top_k_keeps_all(kernels):
    ((info, _),) = fusedly(kernels, torch.zeros(1, 400), [RowSettings(filters=Filters(top_k=3))])
    assert info.effective_vocab_size == 400


def test_a_greedy_row_takes_the_lowest_id_of_the_most_likely(kernels):
    logits = torch.zeros(2, 100)
    logits[0, [40, 60]] = logits[1, [70, 99]] = 3.0
    records = fusedly(kernels, logits, [RowSettings(Greedy(), Filters(top_k=5)), RowSettings(Greedy())])
    assert [info.token_id for info, _ in records] == [40, 70]
    assert [info.effective_vocab_size for info, _ in records] == [1, 1]


def test_policies_that_drop_set_filters_or_search_are_served(kernels):
    policies = [
        Mirostat(3.0), Mirostat(0.5), TargetEntropy(1.0), TargetEntropy(3.0), TargetEntropy(6.5), TargetEntropy(0.0),
        Quadrant(low_low_top_k=2, low_high_top_p=0.6, high_low_min_p=0.1, entropy_gain=0.2), Greedy(),
    ]  # fmt: skip
    settings = [RowSettings(policy, FILTERS[i % 3 + 2], seed=i, candidates=3) for i, policy in enumerate(policies)]
    logits = logits_of(len(settings), 2.5)
    assert_same(fusedly(kernels, logits, settings), plainly(logits, settings))


@pytest.mark.parametrize("vocab", [40, 2500])
def test_target_entropy_is_reached_to_a_millionth(kernels, vocab):
    """The vocabularies lie on both sides of the size from which on float32 is trusted."""
    targets = [0.2, 1.0, 2.0, 3.0]
    settings = [RowSettings(TargetEntropy(target, 0.01, 100.0)) for target in targets]
    records = fusedly(kernels, logits_of(4, 3.0, vocab), settings)
    assert [info.scaled_entropy for info, _ in records] == pytest.approx(targets, abs=2e-6)


def test_rows_with_other_filters_go_the_plain_way_beside_the_others(kernels):
    settings = [
        RowSettings(Fixed(0.9), Filters(top_p=0.7), seed=1),
        RowSettings(Fixed(0.9), Filters(typical_p=0.6), seed=2),
        RowSettings(Fixed(0.9), Filters(top_k=20, top_h=0.4), seed=3),
    ]
    logits = logits_of(3, 2.0)
    assert_same(fusedly(kernels, logits, settings), plainly(logits, settings))


def test_changed_logits_are_filtered_and_the_raw_ones_measured(kernels):
    history = History((5, 6, 7), (8, 9))
    settings = [
        RowSettings(Fixed(0.9), Filters(top_p=0.7), seed=1, bias={3: 9.0, 4: -5.0}),
        RowSettings(Fixed(0.9), Filters(top_k=9), penalties=Penalties(repetition=1.5), history=history),
    ]
    logits = logits_of(2, 1.0)
    assert_same(fusedly(kernels, logits, settings), plainly(logits, settings))


def test_given_tokens_are_scored_kept_or_not(kernels):
    settings = [RowSettings(Fixed(0.9), Filters(top_p=0.5))] * 2
    logits = logits_of(2, 3.0)
    tokens = torch.stack([logits[0].argmax(), logits[1].argmin()])
    got = fusedly(kernels, logits, settings, tokens=tokens)
    assert_same(got, plainly(logits, settings, tokens=tokens))
    assert got[1][0].filtered_logprob != got[1][0].filtered_logprob


def test_a_row_that_is_no_distribution_fails_alone(kernels):
    settings = [RowSettings(filters=Filters(top_p=0.7, top_k=50), seed=seed) for seed in range(5)]
    logits = logits_of(5, 2.0)
    alone = fusedly(kernels, logits[:1], settings[:1])
    logits[1, 7], logits[2, 7], logits[3] = torch.nan, torch.inf, -torch.inf
    logits[4, 100:] = -torch.inf
    records = fusedly(kernels, logits, settings)
    assert [info.fault for info, _ in records] == [0, Fault.LOGITS, Fault.LOGITS, Fault.LOGITS, 0]
    assert_same(records[:1], alone)
    assert records[4][0].token_id < 100


def test_draws_follow_the_distribution_that_is_reported(kernels):
    """At equally spaced numbers three tokens come as often as their probabilities say."""
    logits = torch.full((20, 60), -torch.inf)
    logits[:, [10, 20, 50]] = torch.tensor([0.2, 0.5, 0.3]).log()
    ranked = kernels.rank(logits)
    rows = Rows([RowSettings(filters=Filters(top_p=0.99))] * 20)
    one = torch.ones(20, dtype=torch.float64)
    setting = Setting(Control(one), rows.filters)
    pool = ranked.survey.pool(rows, setting)
    drawn = pool.draw((torch.arange(20, dtype=torch.float64) + 0.5) / 20)
    assert drawn.bincount(minlength=60)[[10, 20, 50]].tolist() == [4, 10, 6]
    assert pool.probabilities(60)[0, [10, 20, 50]].tolist() == pytest.approx([0.2, 0.5, 0.3])


def test_rows_that_go_on_in_float64_or_visit_after_visit_arrive_too(kernels, monkeypatch):
    """Steep and flat slopes, a target that float32 may miss; and a search that one program makes alone."""
    monkeypatch.setattr(fused, "_VISITS", 1)  # of a GPU
    steep = logits_of(1, 0.05, 2500) - 9.0
    steep[:, :3] = torch.tensor([0.0, -1e-4, -2e-4])
    logits = torch.cat([logits_of(2, 0.01, 2500), logits_of(1, 6.0, 2500), steep])
    targets = [7.8, 5.5, 0.02, 1.3]
    settings = [RowSettings(TargetEntropy(target, 1e-3, 100.0)) for target in targets]
    records = fusedly(kernels, logits, settings)
    assert [info.scaled_entropy for info, _ in records] == pytest.approx(targets, abs=2e-6)
    for (info, _), row in zip(records, logits.double(), strict=True):
        s = (row / info.temperature).log_softmax(-1)
        assert -(s.exp() * s).sum().item() == pytest.approx(info.scaled_entropy, abs=2e-6)


def test_numbers_come_from_seed_and_position(kernels):
    logits = logits_of(1, 0.0).expand(6, -1)
    settings = [RowSettings(seed=seed, position=3) for seed in range(6)]
    drawn = [info.token_id for info, _ in fusedly(kernels, logits, settings)]
    numbers = uniform(torch.arange(6), torch.full((6,), 3))
    assert drawn == (numbers * VOCAB).long().tolist()
