"""The most likely tokens of each row, exact, without a selection over the whole vocabulary."""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

COUNT = 80
"""How many are found. A constant: the work done for a row must not depend on its company."""


class Candidates(NamedTuple):
    """The largest logits `[rows, n]` in falling order and their tokens, int64. Among equals the order is arbitrary."""

    values: Tensor
    ids: Tensor

    @property
    def top(self) -> Tensor:
        """The largest logit `[rows, 1]`."""
        return self.values[:, :1]


def best(logits: Tensor, count: int) -> Candidates:
    """The `count` largest logits of rows `[rows, vocab]`, or all if there are fewer. NaN counts as the largest.

    A token among the `count` largest lies in one of the `count` blocks of largest maximum; so the selection is one over
    the blocks, and one over the tokens of those. A block is every `blocks`-th token: such maxima vectorise.
    """
    rows, vocab = logits.shape
    size = 16 if vocab < 1 << 16 else 32
    blocks = vocab // size
    if blocks <= count:
        return Candidates(*logits.topk(min(count, vocab), -1))
    rest = vocab % size
    front = logits[:, : blocks * size] if rest else logits
    chosen = front.view(rows, size, blocks).amax(1).topk(count, -1, sorted=False).indices
    places = (chosen[:, None] + _steps(size, blocks, logits.device)).view(rows, -1)
    if rest:
        places = torch.cat([places, torch.arange(vocab - rest, vocab, device=logits.device).expand(rows, -1)], -1)
    values, order = logits.gather(-1, places).topk(count, -1)
    return Candidates(values, places.gather(-1, order))


@cache
def _steps(size: int, blocks: int, device: torch.device) -> Tensor:
    """From the first token of a block to each of its tokens, `[size, 1]`."""
    return torch.arange(0, blocks * size, blocks, device=device)[:, None]
