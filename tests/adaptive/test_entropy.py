"""Entropy from logits, against closed forms and float64."""

import math

import numpy as np
import pytest
import torch

import adaptive
from adaptive.entropy import measure
from tests import oracle

A = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
C = torch.tensor([0.97, 0.01, 0.01, 0.01]).log()


@pytest.mark.parametrize(
    ("logits", "h", "variance"),
    [
        (A, 1.279854226, 0.180921687),
        (C, 0.167700537, 0.609004234),
        (torch.tensor([0.75, 0.25]).log(), 0.562335145, None),
        (torch.tensor([2, 1, 0.5, 0, -0.5, -1, -1.5, -2]), 1.435628698, 0.967434427),
        (torch.zeros(8), math.log(8), 0.0),
        (torch.tensor([5.0, -torch.inf, -torch.inf]), 0.0, 0.0),
        (torch.tensor([1.0, 1.0, -torch.inf]), math.log(2), 0.0),
    ],
)
def test_closed_forms(logits, h, variance):
    assert adaptive.entropy(logits).item() == pytest.approx(h, abs=1e-6)
    if variance is not None:
        assert adaptive.varentropy(logits).item() == pytest.approx(variance, abs=1e-6)


@pytest.mark.parametrize("vocab", [2, 1000, 151_936])
@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0])
def test_float32_is_close_to_float64(vocab, spread):
    z = torch.randn(3, vocab, generator=torch.Generator().manual_seed(vocab)) * spread
    for row, h, v in zip(z, adaptive.entropy(z), adaptive.varentropy(z), strict=True):
        log_p = oracle.log_softmax(row.numpy().astype(np.float64))
        assert h.item() == pytest.approx(oracle.entropy(log_p), abs=2e-5)
        exact = (np.exp(log_p) * (-log_p - oracle.entropy(log_p)) ** 2).sum()
        assert v.item() == pytest.approx(exact, abs=2e-4, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_float_type_goes_in_and_float32_or_better_comes_out(dtype):
    h = adaptive.entropy(torch.zeros(5, 7, dtype=dtype))
    assert h.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert h.shape == (5,)
    assert torch.allclose(h, torch.full_like(h, math.log(7)))


def test_a_row_has_the_same_bits_alone_and_among_others():
    """Torch sums one long row in another order than several; the helper must hide that."""
    z = torch.randn(5, 200_000, generator=torch.Generator().manual_seed(1)) * 4
    together = adaptive.entropy(z)
    for row in range(5):
        assert torch.equal(adaptive.entropy(z[row : row + 1])[0], together[row])
        assert torch.equal(adaptive.entropy(z[row]), together[row])


def test_rows_that_are_no_distribution_are_known():
    z = torch.zeros(4, 3)
    z[0, 1] = torch.nan
    z[1] = -torch.inf
    z[2, 0] = torch.inf
    assert measure(z).failed.tolist() == [True, True, True, False]
