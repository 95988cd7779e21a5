"""Penalties against their formulas, when a row joins with a history and when it grows token by token."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import adaptive
from adaptive import History, Penalties, Rows, RowSettings
from adaptive.sampler import shape
from tests import peers
from tests.adaptive.cases import random_logits

VOCAB = 8


def penalised(logits, rows):
    return shape(logits, rows).changed.double().numpy()


def expected(row, penalties, prompt, output, breakers=frozenset()):
    z = row.double().numpy()
    z = peers.repetition(z, [*prompt, *output], penalties.repetition)
    z = peers.presence_and_frequency(z, output, penalties.presence, penalties.frequency)
    if penalties.dry_multiplier:
        dry = peers.dry(
            [*prompt, *output], penalties.dry_multiplier, penalties.dry_base or 1.75,
            penalties.dry_allowed_length or 2, penalties.dry_window or 0, breakers,
        )  # fmt: skip
        for token, value in dry.items():
            z[token] -= min(value, 1e4)
    return z


def settings_of(penalties, prompt=(), output=(), breakers=frozenset()):
    return RowSettings(penalties=penalties, history=History(prompt, output, frozenset(breakers)))


def test_by_hand():
    """Logits 2, -1, 0, .5; prompt 0, 1; output 1, 3, 3."""
    row = torch.tensor([[2.0, -1.0, 0.0, 0.5]])
    for penalties, wish in (
        (Penalties(repetition=2.0), [1.0, -2.0, 0.0, 0.25]),
        (Penalties(presence=0.5), [2.0, -1.5, 0.0, 0.0]),
        (Penalties(frequency=0.5), [2.0, -1.5, 0.0, -0.5]),
        (Penalties(2.0, 0.5, -0.25), [1.0, -2.25, 0.0, 0.25]),
    ):
        rows = Rows([settings_of(penalties, (0, 1), (1, 3, 3))])
        assert penalised(row, rows)[0] == pytest.approx(wish)
    # DRY: 1 2 3 1 2 would go on with 3, a match of two; 5 after a match of one is free.
    rows = Rows([settings_of(Penalties(dry_multiplier=0.8), (1, 2, 3, 2, 0, 1, 2))])
    assert penalised(torch.zeros(1, 4), rows)[0] == pytest.approx([0, 0, 0, -0.8])
    rows = Rows([settings_of(Penalties(dry_multiplier=0.8), (4, 1, 2, 3, 4, 1, 2))])
    assert penalised(torch.zeros(1, 5), rows)[0] == pytest.approx([0, 0, 0, -0.8 * 1.75, 0])


texts = st.lists(st.integers(0, 3), max_size=40)
dry_penalties = st.builds(
    Penalties,
    repetition=st.sampled_from([1.0, 1.3]),
    presence=st.sampled_from([0.0, 0.4]),
    frequency=st.sampled_from([0.0, -0.3]),
    dry_multiplier=st.floats(0.1, 2.0),
    dry_base=st.none() | st.floats(1.0, 2.5),
    dry_allowed_length=st.none() | st.integers(1, 6),
    dry_window=st.none() | st.integers(0, 25),
)
members = st.lists(
    st.tuples(dry_penalties, texts, st.lists(st.integers(0, 3), max_size=12), st.sets(st.integers(0, 3), max_size=2)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=120, deadline=None)
@given(members)
def test_rows_that_join_with_a_history_are_penalised_by_the_formulas(members):
    rows = Rows([settings_of(*member) for member in members])
    logits = random_logits(len(members), VOCAB)
    for row, got, (penalties, prompt, output, breakers) in zip(logits, penalised(logits, rows), members, strict=True):
        assert got == pytest.approx(expected(row, penalties, prompt, output, breakers), rel=1e-5, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(members, st.lists(st.integers(0, 3), min_size=4, max_size=30))
def test_rows_that_grow_token_by_token_are_penalised_by_the_formulas(members, drawn):
    rows = Rows([settings_of(*member) for member in members])
    outputs = [list(output) for _, _, output, _ in members]
    logits = random_logits(len(members), VOCAB)
    for step, token in enumerate(drawn):
        tokens = [(token + i * step) % 4 for i in range(len(members))]
        adaptive.step(logits, rows, tokens=torch.tensor(tokens))
        for output, taken in zip(outputs, tokens, strict=True):
            output.append(taken)
    for row, got, output, (penalties, prompt, _, breakers) in zip(
        logits, penalised(logits, rows), outputs, members, strict=True
    ):
        assert got == pytest.approx(expected(row, penalties, prompt, output, breakers), rel=1e-5, abs=1e-5)


def test_long_matches_count_as_fifty_and_huge_penalties_stay_finite():
    loop = [1, 2, 3, 1, 2] * 30
    for base in (1.05, 1.75, 1e6):
        penalties = Penalties(dry_multiplier=0.5, dry_base=base)
        got = penalised(torch.zeros(1, VOCAB), Rows([settings_of(penalties, loop)]))[0]
        assert np.isfinite(got).all()
        assert got == pytest.approx(expected(torch.zeros(VOCAB), penalties, loop, []), rel=1e-4)


def test_rows_join_leave_and_grow_beyond_every_capacity_with_their_own_texts():
    """More than 256 tokens each, in a batch that changes all the time."""
    generator = np.random.default_rng(0)
    penalties = Penalties(1.1, 0.2, 0.05, 0.7, 1.2, 1, 60)
    plain = Penalties(presence=1.0)

    def fresh(length):
        text = generator.integers(0, 4, length).tolist()
        kind = penalties if generator.random() < 0.7 else plain
        return kind, text[: length // 2], text[length // 2 :], {3} if generator.random() < 0.5 else set()

    requests = [fresh(n) for n in (0, 5, 300)]
    rows = Rows([settings_of(*request) for request in requests] + [RowSettings()])
    for step in range(330):
        if step % 30 == 29:
            keep = generator.permutation(len(requests)).tolist()
            keep = keep[:-1] if len(keep) > 3 else keep
            joining = [fresh(int(generator.choice([0, 1, 40, 600])))]
            new = [settings_of(*request) for request in joining]
            rows = rows.change([*keep, len(requests)], new)
            rows = rows.change([*range(len(keep)), len(keep) + 1, len(keep)])  # the plain row stays the last
            requests = [requests[i] for i in keep] + joining
        tokens = generator.integers(0, 4, len(requests) + 1)
        logits = random_logits(len(requests) + 1, VOCAB, 3.0, step)
        if step % 10 == 0 or step % 30 == 29:
            got = penalised(logits, rows)
            for i, (kind, prompt, output, breakers) in enumerate(requests):
                assert got[i] == pytest.approx(expected(logits[i], kind, prompt, output, breakers), rel=1e-5, abs=1e-5)
            assert got[-1] == pytest.approx(logits[-1].double().numpy())
        adaptive.step(logits, rows, tokens=torch.tensor(tokens))
        for request, token in zip(requests, tokens, strict=False):
            request[2].append(int(token))


def test_a_row_that_begins_to_use_dry_knows_what_its_text_repeats():
    """Under other settings from a token on; until then nobody counted matches."""
    text = (1, 2, 3, 1, 2)
    rows = Rows([settings_of(Penalties(presence=1e-9), text)])
    dry = Penalties(dry_multiplier=1.0)
    rows = rows.change([0], anew={0: settings_of(dry, text)})
    got = penalised(torch.zeros(1, VOCAB), rows)[0]
    assert got == pytest.approx(expected(torch.zeros(VOCAB), dry, text, []), abs=1e-6)


def test_logit_bias_is_added_before_the_policy_decides_on_the_raw_row():
    wish = RowSettings(adaptive.Edt(), bias={2: 50.0, 0: -float("inf")})
    plain, biased = (adaptive.step(torch.zeros(1, 5), Rows([w]))[1].records()[0][0] for w in (RowSettings(), wish))
    assert biased.token_id == 2
    assert biased.original_entropy == plain.original_entropy
    assert biased.final_entropy == pytest.approx(0.0, abs=1e-6)
