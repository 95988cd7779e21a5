"""Filters: by hand, against Hugging Face, and at their edges."""

import pytest
import torch
from transformers.generation.logits_process import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

import adaptive
from adaptive.nucleus import _edges_by_sort, edges_by_bins

A = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()


def survivors(logits):
    return torch.isfinite(logits).nonzero().flatten().tolist()


def test_by_hand():
    assert survivors(adaptive.apply_top_k(A, 2)) == [2, 3]
    assert survivors(adaptive.apply_top_k(A, 99)) == [0, 1, 2, 3]
    assert survivors(adaptive.apply_top_p(A, 0.39)) == [3]
    assert survivors(adaptive.apply_top_p(A, 0.41)) == [2, 3]
    assert survivors(adaptive.apply_top_p(A, 1.0)) == [0, 1, 2, 3]
    assert survivors(adaptive.apply_min_p(A, 0.6)) == [2, 3]
    assert survivors(adaptive.apply_min_p(A, 0.0)) == [0, 1, 2, 3]


def test_what_stays_is_not_changed():
    assert torch.equal(adaptive.apply_top_k(A, 2)[2:], A[2:])
    assert torch.allclose(adaptive.apply_temperature(A, 0.5), A / 0.5)


def test_ties():
    """top_k keeps all that tie with the last; top_p keeps as many as it needs, the higher ids, as Hugging Face does."""
    flat = torch.zeros(6)
    assert survivors(adaptive.apply_top_k(flat, 2)) == [0, 1, 2, 3, 4, 5]
    assert survivors(adaptive.apply_top_p(flat, 0.5)) == [3, 4, 5]
    assert survivors(TopPLogitsWarper(0.5)(None, flat[None].clone())[0]) == [3, 4, 5]


@pytest.mark.parametrize("row", [torch.full((9,), -torch.inf), torch.full((9,), -50.0)], ids=["one finite", "one hot"])
def test_one_token_always_stays(row):
    row = row.clone()
    row[4] = 3.0
    for filtered in (
        adaptive.apply_top_k(row, 1),
        adaptive.apply_top_p(row, 1e-6),
        adaptive.apply_min_p(row, 1.0),
    ):
        assert survivors(filtered) == [4]


def test_parameters_may_differ_by_row():
    rows = A.expand(3, 4)
    kept = adaptive.apply_top_k(rows, torch.tensor([1, 2, 3])).isfinite().sum(-1)
    assert kept.tolist() == [1, 2, 3]
    kept = adaptive.apply_top_p(rows, torch.tensor([0.3, 0.5, 1.0])).isfinite().sum(-1)
    assert kept.tolist() == [1, 2, 4]


@pytest.mark.parametrize(
    ("call", "allowed"),
    [
        (lambda: adaptive.apply_temperature(A, 0), "above 0"),
        (lambda: adaptive.apply_temperature(A, -1.0), "above 0"),
        (lambda: adaptive.apply_temperature(A, float("nan")), "above 0"),
        (lambda: adaptive.apply_top_k(A, 0), "at least 1"),
        (lambda: adaptive.apply_top_k(A, 1.5), "whole number"),
        (lambda: adaptive.apply_top_p(A, 0.0), "above 0"),
        (lambda: adaptive.apply_top_p(A, 1.1), "at most 1"),
        (lambda: adaptive.apply_min_p(A, -0.1), "from 0 to 1"),
        (lambda: adaptive.Filters(top_k=0), "at least 1"),
        (lambda: adaptive.Filters(top_p=float("nan")), "at most 1"),
        (lambda: adaptive.get_sampling_info(A, temperature=0), "above 0"),
        (lambda: adaptive.get_sampling_info(A, top_p=2.0), "at most 1"),
        (lambda: adaptive.get_sampling_info(torch.full((3,), torch.nan)), "NaN"),
        (lambda: adaptive.get_sampling_info(A[None]), "one row"),
    ],
)
def test_bad_parameters_are_refused_with_what_is_allowed(call, allowed):
    with pytest.raises(ValueError, match=allowed):
        call()


def huggingface(row, temperature, top_k, top_p, min_p):
    """The distribution of transformers' own processors, in the order in which `generate` applies them."""
    scores = row[None] / temperature
    if top_k is not None:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p is not None:
        scores = TopPLogitsWarper(top_p)(None, scores)
    if min_p is not None:
        scores = MinPLogitsWarper(min_p)(None, scores)
    return torch.softmax(scores[0], -1)


def test_the_distribution_equals_hugging_faces_on_a_thousand_random_rows():
    """Random sizes, spreads and settings. Where the sets differ, the edge of top-p must lie within float32's rounding
    of p (the two sum in opposite directions); it must happen rarely."""
    generator = torch.Generator().manual_seed(7)

    def pick(choices):
        return choices[int(torch.randint(len(choices), (1,), generator=generator))]

    borderline = 0
    for _ in range(1000):
        vocab = pick([5, 100, 3000])
        row = torch.randn(vocab, generator=generator) * pick([0.1, 1.0, 5.0])
        settings = (
            pick([0.3, 0.8, 1.0, 1.7]),
            pick([None, 1, 20]),
            pick([None, 0.5, 0.9, 0.99]),
            pick([None, 0.05, 0.3]),
        )
        temperature, top_k, top_p, min_p = settings
        mine = row / temperature
        if top_k is not None:
            mine = adaptive.apply_top_k(mine, top_k)
        if top_p is not None:
            mine = adaptive.apply_top_p(mine, top_p)
        if min_p is not None:
            mine = adaptive.apply_min_p(mine, min_p)
        expected = huggingface(row, *settings)
        got = torch.softmax(mine, -1)
        if torch.equal(got > 0, expected > 0):
            assert torch.allclose(got, expected, atol=1e-6)
        else:
            borderline += 1
            edge = abs(int((got > 0).sum()) - int((expected > 0).sum()))
            assert edge == 1
            assert top_p is not None
    assert borderline <= 2


@pytest.mark.parametrize("seed", range(5))
def test_top_p_by_bins_equals_top_p_by_a_whole_sort(seed):
    """Flat rows, ties, one token, impossible tokens."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(8, 501, generator=generator) * torch.tensor([0.01, 0.3, 1.0, 3.0, 9.0, 1.0, 0.0, 90.0])[:, None]
    rows[5] = rows[5].round()  # many ties
    rows[1, ::3] = -torch.inf
    rows -= rows.amax(-1, keepdim=True)
    p = torch.rand(8, 1, generator=generator, dtype=torch.float64)
    weights = rows.softmax(-1)
    for found, expected in zip(edges_by_bins(rows, weights, p), _edges_by_sort(rows, weights, p), strict=True):
        assert torch.equal(found, expected)
