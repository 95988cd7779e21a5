"""The random numbers of a batch, some steps ahead."""

import torch
from torch import Tensor

from adaptive.draw import uniform

_AHEAD = 32


class Dice:
    """One number for each (seed, position), `adaptive.draw.uniform`, made for several positions at a time.

    Each is some thirty operations on a few numbers, so that one step's cost as much as a pass over the vocabulary.
    """

    def __init__(self, seeds: Tensor, positions: Tensor) -> None:
        self._seeds, self._first, self._step = seeds, positions, 0
        self._numbers: Tensor | None = None

    @property
    def positions(self) -> Tensor:
        """Position of each row's next token, int64 `[rows]`."""
        return self._first + self._step

    def next(self) -> Tensor:
        """The numbers of this step, float64 `[rows]` in [0, 1)."""
        if self._numbers is None:
            ahead = self._first[:, None] + torch.arange(_AHEAD, device=self._first.device)
            self._numbers = uniform(self._seeds[:, None], ahead).T.contiguous()
        return self._numbers[self._step]

    def advance(self) -> None:
        """Go on to the next position."""
        self._step += 1
        if self._step == _AHEAD:
            self._first, self._step, self._numbers = self.positions, 0, None
