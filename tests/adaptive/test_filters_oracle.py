"""Every filter against its formula: by hand, and against the float64 oracle."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import adaptive
from adaptive import Filters, Mirostat, Rows, RowSettings
from adaptive.entropy import entropy
from adaptive.sampler import shape
from tests import oracle
from tests.adaptive.cases import INF, A, C, edge_rows, infos, survivors

ROUNDING = 1e-5
"""Where the oracle's margin is below this, float32 may decide otherwise."""
Z = torch.tensor([2, 1, 0.5, 0, -0.5, -1, -1.5, -2])


def hugging_face_top_h(z, share):
    return adaptive.apply_top_h(z, share, "hugging_face")


APPLY = {
    "top_k": adaptive.apply_top_k,
    "top_p": adaptive.apply_top_p,
    "min_p": adaptive.apply_min_p,
    "typical_p": adaptive.apply_typical_p,
    "epsilon_cutoff": adaptive.apply_epsilon,
    "eta_cutoff": adaptive.apply_eta,
    "top_n_sigma": adaptive.apply_top_n_sigma,
    "top_h": adaptive.apply_top_h,
    "top_h_hugging_face": hugging_face_top_h,
    "p_less": lambda z, _: adaptive.apply_p_less(z),
    "xtc": adaptive.apply_xtc,
}


@pytest.mark.parametrize(
    ("name", "row", "value", "kept"),
    [
        # A = (.1, .2, .3, .4), H 1.2799; surprisals 2.303, 1.609, 1.204, .916; distances to H 1.023, .330, .076, .364.
        ("typical_p", A, 0.29, [2]),
        ("typical_p", A, 0.31, [1, 2]),
        ("typical_p", A, 0.51, [1, 2, 3]),
        ("typical_p", A, 0.91, [0, 1, 2, 3]),
        ("epsilon_cutoff", A, 0.15, [1, 2, 3]),
        ("epsilon_cutoff", A, 0.9, [3]),
        # sqrt(eta) e^-H = sqrt(eta) / 3.596: eta .36 gives .1669, eta .09 gives .0834, eta .01 is the smaller itself.
        ("eta_cutoff", A, 0.36, [1, 2, 3]),
        ("eta_cutoff", A, 0.09, [0, 1, 2, 3]),
        ("eta_cutoff", C, 0.0099, [0, 1, 2, 3]),
        ("eta_cutoff", C, 0.0101, [0]),
        # z = 2, 1, .5, ..., -2: population sigma 1.2484; n 1 cuts at .7516, n 2 at -.4969.
        ("top_n_sigma", Z, 1.0, [0, 1]),
        ("top_n_sigma", Z, 2.0, [0, 1, 2, 3]),
        ("top_n_sigma", torch.tensor([3.0, 1.0, -INF]), 1.9, [0]),  # sigma 1: cuts at 1.1; -inf does not count
        ("top_n_sigma", torch.tensor([3.0, 1.0, -INF]), 2.1, [0, 1]),
        # Sum of squares of A: .3; of C: .9412.
        ("p_less", A, 0.0, [2, 3]),
        ("p_less", C, 0.0, [0]),
        # Prefix entropies of A: 0, .6829, 1.0609 (of 4/9, 3/9, 2/9), 1.2799; shares .5336, .8289 of the whole.
        ("top_h", A, 0.53, [3]),
        ("top_h", A, 0.54, [2, 3]),
        ("top_h", A, 0.83, [1, 2, 3]),
        ("top_h", A, 1.0, [0, 1, 2, 3]),
        # Partial sums of -p ln p of A: .3665, .7277, 1.0496, 1.2799; shares .2864, .5686, .8201.
        ("top_h_hugging_face", A, 0.1, [3]),
        ("top_h_hugging_face", A, 0.56, [3]),
        ("top_h_hugging_face", A, 0.57, [2, 3]),
        ("top_h_hugging_face", A, 0.83, [1, 2, 3]),
        ("xtc", A, 0.15, [0, 1]),
        ("xtc", A, 0.25, [0, 1, 2]),
        ("xtc", A, 0.35, [0, 1, 2, 3]),  # one token alone is at the threshold
        ("xtc", A, 0.6, [0, 1, 2, 3]),
        ("xtc", A, 0.0, [0]),
    ],
)
def test_by_hand(name, row, value, kept):
    assert survivors(APPLY[name](row, value)) == kept
    assert torch.equal(APPLY[name](row, value)[kept], row[kept])


def test_mirostat_drops_what_is_more_surprising_than_mu_and_keeps_the_most_likely():
    for mu, kept in ((2.4, 4), (2.0, 3), (1.3, 2), (1.0, 1), (0.0, 1), (-3.0, 1)):
        info = infos(A[None], Rows([RowSettings(Mirostat(), state={"mu": mu})]))[0]
        assert info.effective_vocab_size == kept


def test_the_documented_example_step_by_step():
    """z = 2, 1, .5, ..., -2 with T .8, top_k 5, top_p .9."""
    assert entropy(Z / 0.8).item() == pytest.approx(1.199705890, abs=1e-6)
    assert entropy(adaptive.apply_top_k(Z / 0.8, 5)).item() == pytest.approx(1.079522888, abs=1e-6)
    info = infos(Z[None], Rows([RowSettings(adaptive.Fixed(0.8), Filters(top_k=5, top_p=0.9))]))[0]
    assert info.scaled_entropy == pytest.approx(1.199705890, abs=1e-6)
    assert info.final_entropy == pytest.approx(0.812972420, abs=1e-6)
    assert info.top_token_prob == pytest.approx(0.694512080, abs=1e-6)
    assert info.effective_vocab_size == 3


def parameter(name: str) -> st.SearchStrategy:
    if name == "top_k":
        return st.integers(1, 40)
    return st.floats(0.2, 4.0) if name == "top_n_sigma" else st.floats(0.01, 0.99)


rows = st.builds(
    lambda seed, vocab, spread, impossible: (
        torch.randn(vocab, generator=torch.Generator().manual_seed(seed)) * spread
    ).masked_fill(torch.arange(vocab) % 7 < impossible, -INF),
    st.integers(0, 10**6),
    st.sampled_from([8, 33, 300]),
    st.sampled_from([0.05, 1.0, 4.0]),
    st.integers(0, 3),
)


@pytest.mark.parametrize("name", APPLY)
def test_a_filter_keeps_what_its_formula_keeps(name):
    """Exactly so, unless float32's rounding decides: the oracle then is within 1e-5 of deciding otherwise itself."""
    undecided = []

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(rows, parameter(name))
    def check(row, value):
        kept, margin = oracle.KEEP[name](row.numpy().astype(np.float64), value)
        undecided.append(margin < ROUNDING)
        if margin >= ROUNDING:
            assert survivors(APPLY[name](row, value)) == np.flatnonzero(kept & np.isfinite(row.numpy())).tolist()

    check()
    assert sum(undecided) <= 0.1 * len(undecided)


PREFIX_FILTERS = ("top_k", "top_p", "min_p", "epsilon_cutoff", "eta_cutoff", "top_n_sigma", "top_h", "p_less")


@settings(max_examples=100, deadline=None)
@given(rows, st.sampled_from([*PREFIX_FILTERS, "top_h_hugging_face"]), st.data())
def test_a_filter_that_keeps_the_most_likely_keeps_a_prefix_and_never_raises_entropy(row, name, data):
    """Of a falling distribution a longer prefix never has less entropy; ties may be cut only as documented."""
    left = APPLY[name](row, data.draw(parameter(name)))
    kept = left > -INF
    assert row[kept].min() >= row[~kept].max() if bool((~kept).any()) else True
    assert entropy(left) <= entropy(row) + 1e-5


@pytest.mark.parametrize("name", APPLY)
@pytest.mark.parametrize("row", edge_rows().values(), ids=edge_rows())
def test_a_token_stays_of_every_row_at_the_strictest_setting(name, row):
    strictest = 1 if name == "top_k" else (1.0 if name == "min_p" else (0.999 if name.endswith("cutoff") else 1e-6))
    left = survivors(APPLY[name](row, strictest))
    assert left
    if name not in ("typical_p", "xtc"):
        assert row[left].max() == row.max()


@pytest.mark.parametrize("name", APPLY)
def test_a_uniform_row_loses_nothing_but_where_a_count_or_a_mass_is_asked(name):
    value = {"top_k": 3, "top_p": 0.5, "top_h": 0.5, "top_h_hugging_face": 0.5, "xtc": 0.05}.get(name, 0.3)
    expected = {"top_p": 5, "top_h": 3, "top_h_hugging_face": 5, "xtc": 1}.get(name, 10)
    assert len(survivors(APPLY[name](torch.zeros(10), value))) == expected  # top_h: ln 3 <= ln(10) / 2


settings_of_all = st.fixed_dictionaries(
    {},
    optional={
        "top_n_sigma": st.floats(0.5, 4.0),
        "p_less": st.just(True),
        "top_h": st.floats(0.3, 0.95),
        "top_k": st.integers(1, 40),
        "top_p": st.floats(0.3, 0.99),
        "min_p": st.floats(0.001, 0.3),
        "typical_p": st.floats(0.3, 0.95),
        "epsilon_cutoff": st.floats(1e-4, 0.1),
        "eta_cutoff": st.floats(1e-4, 0.5),
        "xtc": st.floats(0.01, 0.5),
    },
)


@settings(max_examples=150, deadline=None)
@given(rows, settings_of_all, st.booleans(), st.floats(0.3, 2.0))
def test_chains_of_all_filters_in_the_documented_order_equal_the_oracle(row, chosen, hugging_face, temperature):
    wished = dict(chosen)
    if hugging_face and "top_h" in wished:
        wished["top_h_hugging_face"] = wished.pop("top_h")
        chosen = chosen | {"top_h_variant": "hugging_face"}
    if "xtc" in chosen:
        chosen = {k: v for k, v in chosen.items() if k != "xtc"}
        chosen |= {"xtc_threshold": wished["xtc"], "xtc_probability": 1.0}
    expected = oracle.step(row.numpy(), temperature, **wished)
    wish = RowSettings(adaptive.Fixed(temperature), Filters(**chosen))
    got = shape(row[None], Rows([wish])).log_probabilities()[0].exp().numpy()
    if expected.margin < ROUNDING:
        return
    assert np.array_equal(got > 0, np.exp(expected.log_q) > 1e-45)
    assert got == pytest.approx(np.exp(expected.log_q), abs=2e-6)
    info = infos(row[None], Rows([wish]))[0]
    assert info.final_entropy == pytest.approx(expected.final_entropy, abs=2e-5)
    assert info.kept_mass == pytest.approx(expected.kept_mass, abs=2e-6)
    assert info.effective_vocab_size == expected.effective_vocab_size


def test_xtc_acts_with_its_probability():
    """4,000 steps at 0.3: a right one leaves 0.3 +- 0.035 with a probability above 1 - 1e-5."""
    rows = Rows([RowSettings(filters=Filters(xtc_probability=0.3, xtc_threshold=0.15), seed=i) for i in range(4000)])
    acted = np.mean([info.effective_vocab_size == 2 for info in infos(A.expand(4000, -1), rows)])
    assert acted == pytest.approx(0.3, abs=0.035)
    never = Rows([RowSettings(filters=Filters(xtc_probability=0.0, xtc_threshold=0.15))])
    assert infos(A[None], never)[0].effective_vocab_size == 4


def test_values_that_keep_everything_keep_everything():
    every = {"top_k": 99, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0}
    wide = Filters(**every, top_h=1.0, top_n_sigma=1e9)
    assert infos(C[None], Rows([RowSettings(filters=wide)]))[0].kept_mass == pytest.approx(1.0, abs=1e-6)
    for name, value in every.items():
        assert survivors(APPLY[name](C, value)) == [0, 1, 2, 3]
    assert math.isclose(entropy(adaptive.apply_top_n_sigma(A, 1e30)).item(), 1.279854226, abs_tol=1e-6)
