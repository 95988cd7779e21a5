"""A step by kernels and by plain torch, and what must be the same."""

import pytest
import torch

from adaptive import Filters, Rows, SamplingInfo, accelerator, step

VOCAB = 320
FILTERS = [
    Filters(),
    Filters(top_k=7),
    Filters(top_k=200),
    Filters(top_p=0.6),
    Filters(top_p=0.97),
    Filters(min_p=0.02),
    Filters(top_k=200, top_p=0.5),
    Filters(top_k=300, top_p=0.9, min_p=0.3),
    Filters(top_p=0.9, min_p=0.001),
]
SPREADS = {"flat": 0.3, "peaked": 4.0}


def logits_of(rows: int, spread: float, vocab: int = VOCAB, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * spread


def plainly(logits, settings, **others):
    """The step as a GPU without kernels takes it: every row looks at its whole vocabulary, and draws in order of id."""
    rows = Rows(settings)
    rows.quick, rows.slow = [], list(range(len(settings)))
    return step(logits, rows, **others)[1].records()


def fusedly(kernels, logits, settings, **others):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accelerator, "kernels", lambda device: kernels)
        return step(logits, Rows(settings), **others)[1].records()


def assert_same(got: list, expected: list) -> None:
    for (one, choices), (other, others) in zip(got, expected, strict=True):
        for name, mine, theirs in zip(SamplingInfo._fields, one, other, strict=True):
            assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-4, nan_ok=True), (name, one, other)
        assert one.token_id == other.token_id
        mine, theirs = ([value for choice in one for value in choice] for one in (choices, others))
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-4, nan_ok=True)
