"""A row does not depend on its company, nor on how the vocabulary is numbered."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import adaptive
from adaptive import Filters, Greedy, Rows, RowSettings
from tests.adaptive.cases import (
    EVERY_FILTER,
    EVERY_PENALTY,
    EVERY_POLICY,
    TEXT,
    edge_rows,
    every_kind_of_row,
    infos,
    random_logits,
)

KINDS = every_kind_of_row()


@pytest.mark.parametrize(("vocab", "steps"), [(60, 4), (33_000, 2)])
def test_every_kind_of_row_equals_itself_alone_bit_for_bit(vocab, steps):
    """Tokens, every figure and the state, for some steps; above 32,768 torch splits the sum of a lone row."""
    together, alone = Rows(KINDS), [Rows([wish]) for wish in KINDS]
    for step in range(steps):
        logits = random_logits(len(KINDS), vocab, seed=step)
        batch = infos(logits, together)
        for i, rows in enumerate(alone):
            assert repr(infos(logits[i : i + 1], rows)[0]) == repr(batch[i]), KINDS[i]


@pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda policy: policy.name)
def test_a_crowd_of_one_policy_equals_its_rows_alone_bit_for_bit(policy):
    """Vector instructions take the rows of a crowd several at a time, and its last few one by one."""
    wishes = [RowSettings(policy, seed=i) for i in range(37)]
    together, alone = Rows(wishes), [Rows([wish]) for wish in wishes]
    for step in range(5):
        logits = random_logits(37, 50, 2.0, step)
        batch = infos(logits, together)
        assert [repr(infos(logits[i : i + 1], rows)[0]) for i, rows in enumerate(alone)] == [repr(i) for i in batch]


@pytest.mark.parametrize("penalties", EVERY_PENALTY, ids=str)
def test_a_crowd_of_one_penalty_equals_its_rows_alone_bit_for_bit(penalties):
    histories = [adaptive.History(TEXT[:i], TEXT[i:]) for i in range(1, 14)]
    wishes = [RowSettings(penalties=penalties, history=history, seed=1) for history in histories]
    logits, together, alone = random_logits(13, 51), Rows(wishes), [Rows([wish]) for wish in wishes]
    for _ in range(3):
        batch = infos(logits, together)
        assert [repr(infos(logits[i : i + 1], rows)[0]) for i, rows in enumerate(alone)] == [repr(i) for i in batch]


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_no_distribution_harms_no_other_kind_of_row(broken):
    logits = random_logits(len(KINDS), 40)
    expected = [repr(info) for info in infos(logits, Rows(KINDS))]
    for victim in range(0, len(KINDS), 4):
        harmed = logits.clone()
        harmed[victim] = broken
        got = infos(harmed, Rows(KINDS))
        assert [row for row, info in enumerate(got) if info.fault] == [victim]
        assert [repr(info) for i, info in enumerate(got) if i != victim] == expected[:victim] + expected[victim + 1 :]


def shaped(logits, wish):
    """Temperature and the distribution to draw from."""
    result = adaptive.sampler.shape(logits[None], Rows([wish]))
    return result.setting.control.temperature[0], result.log_probabilities()[0].exp()


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(EVERY_POLICY), st.sampled_from([Filters(), *EVERY_FILTER]))
def test_permuting_the_vocabulary_permutes_the_distribution(seed, policy, chosen):
    generator = torch.Generator().manual_seed(seed)
    row = torch.randn(30, generator=generator) * (0.5 + seed % 4)
    order = torch.randperm(30, generator=generator)
    wish = RowSettings(policy, chosen)
    t, p = shaped(row, wish)
    t_permuted, p_permuted = shaped(row[order], wish)
    assert t_permuted.item() == pytest.approx(t.item(), rel=1e-5)
    assert torch.allclose(p_permuted, p[order], atol=2e-5)


finite_rows = st.integers(2, 30).flatmap(
    lambda vocab: st.lists(
        st.floats(-30, 30, width=32) | st.sampled_from([-math.inf, 0.0, 1.0, -2e38, 3e38]),
        min_size=vocab,
        max_size=vocab,
    ).filter(lambda row: any(math.isfinite(z) for z in row))
)


@settings(max_examples=200, deadline=None)
@given(finite_rows, st.sampled_from(EVERY_POLICY), st.sampled_from(EVERY_FILTER), st.integers(0, 2**64 - 1))
def test_what_holds_for_every_row(row, policy, chosen, seed):
    rows = Rows([RowSettings(policy, chosen, seed)])
    for _ in range(2):
        info = infos(torch.tensor([row]), rows)[0]
        assert not info.fault
        assert 0.0 <= info.original_entropy <= math.log(len(row)) + 1e-5
        assert 0.0 <= info.final_entropy <= math.log(info.effective_vocab_size) + 1e-5
        assert 1 <= info.effective_vocab_size <= len(row)
        assert info.varentropy >= 0.0
        assert math.isfinite(row[info.token_id])
        assert info.logprob <= 1e-6
        assert -math.inf < info.filtered_logprob <= 0.0
        assert all(math.isfinite(value) for value in info.state)
        if isinstance(policy, Greedy):
            assert info.token_id == max(range(len(row)), key=lambda i: row[i])
        else:
            assert info.scaled_entropy >= 0.0
            assert 0.0 < info.kept_mass <= 1.0


BOUNDED = [policy for policy in EVERY_POLICY if hasattr(policy, "max_temperature")]


@pytest.mark.parametrize("policy", BOUNDED, ids=lambda policy: policy.name)
@pytest.mark.parametrize(("low", "high"), [(0.4, 0.9), (1.0, 1.0), (1.2, 3.0), (1e-6, 1e6)])
def test_temperatures_stay_within_their_bounds_on_every_row(policy, low, high):
    bounded = type(policy)(min_temperature=low, max_temperature=high)
    rows = edge_rows()
    batch = Rows([RowSettings(bounded)] * len(rows))
    for _ in range(3):
        for name, info in zip(rows, infos(torch.stack(list(rows.values())), batch), strict=True):
            assert not info.fault, name
            assert low * (1 - 1e-12) <= info.temperature <= high * (1 + 1e-12), name


@pytest.mark.parametrize("chosen", EVERY_FILTER, ids=str)
def test_every_filter_keeps_a_token_of_every_row(chosen):
    rows = edge_rows()
    batch = Rows([RowSettings(filters=chosen, seed=seed) for seed in range(len(rows))])
    for name, row, info in zip(rows, rows.values(), infos(torch.stack(list(rows.values())), batch), strict=True):
        assert not info.fault, name
        assert info.effective_vocab_size >= 1, name
        assert row[info.token_id] > -math.inf, name
