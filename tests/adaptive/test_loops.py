"""A step costs no Python loop over rows: counted, not read off the source.

Three loops are meant, all of the CPU alone: over chunks of rows, and over a chunk's figures where it is short, both of
which are set here to be none; and over the rows whose edge of top-p is found by a histogram, in `adaptive.nucleus`,
whose lines do not count.
"""

import sys

import pytest
import torch

import adaptive
from adaptive import Rows, moments
from tests.adaptive.cases import every_kind_of_row, random_logits


def lines_of_a_step(copies: int) -> int:
    """How many lines of `adaptive` a step of the whole catalogue runs, with `copies` of every kind of row."""
    kinds = every_kind_of_row()
    rows, logits = Rows(kinds * copies), random_logits(len(kinds), 64).repeat(copies, 1)
    counted = 0

    def trace(frame, event, _):
        nonlocal counted
        if "/adaptive/" not in frame.f_code.co_filename or "/tests/" in frame.f_code.co_filename:
            return None
        if frame.f_code.co_filename.endswith("/nucleus.py"):
            return None
        counted += event == "line"
        return trace

    adaptive.step(logits, rows)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        adaptive.step(logits, rows)
    finally:
        sys.settrace(before)
    return counted


@pytest.mark.parametrize("copies", [2, 4])
def test_a_step_runs_the_same_lines_for_any_number_of_rows(copies, monkeypatch):
    """A loop over rows, by a statement or by a comprehension, would run its line once more for each row. The solver's
    rounds are as many as its slowest row needs: the rows are the same, so that they are too."""
    monkeypatch.setattr(moments, "CHUNK", 1 << 30)
    monkeypatch.setattr(moments, "_SHARED_OUT", 10**9)
    torch.set_grad_enabled(False)
    try:
        assert lines_of_a_step(copies) == lines_of_a_step(1)
    finally:
        torch.set_grad_enabled(True)
