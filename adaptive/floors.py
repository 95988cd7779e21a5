"""What kernels leave of all rows: two numbers a row."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

import torch
from torch import Tensor

from adaptive.pool import Pool, Setting

if TYPE_CHECKING:
    from adaptive.cpu.fused import Survey as SurveyOfCpu
    from adaptive.gpu.fused import Survey as SurveyOfGpu


@dataclass(slots=True, kw_only=True)
class Floored(Pool):
    """A pool of all rows: the lowest logit that is left, and of the tokens with just that logit the first id.

    weights: the logits. temperatures: float64 `[rows]`. survey: what kernels found of them.
    """

    survey: Union["SurveyOfCpu", "SurveyOfGpu"]
    setting: Setting
    temperatures: Tensor

    @property
    def floors(self) -> tuple[Tensor, Tensor, Tensor]:
        """The lowest logit that is left, as an integer in the order of floats; of those with just that the first id;
        and the lowest logit less the maximum after temperature that policies and filters leave. `[rows]`."""
        raise NotImplementedError  # the kernels of each device store them in a way of their own

    def holds(self, tokens: Tensor) -> Tensor:
        return self._held(self.weights.gather(-1, tokens), tokens)

    def probabilities(self, vocab: int) -> Tensor:
        ids = torch.arange(vocab, device=self.temperatures.device)[None]
        p = self._y(self.weights).exp() * self._held(self.weights, ids)
        return (p / p.sum(-1, keepdim=True)).to(self.weights.dtype)

    def _y(self, logits: Tensor) -> Tensor:
        return (logits - self.survey.best.top) * self.setting.inverse.float()[:, None]

    def _held(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Which tokens `[rows, n]` are left; as kernels have it."""
        z, y = logits + 0.0, self._y(logits).double()
        bits = z.view(torch.int32)
        key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        floor, edge, limit = (column[:, None] for column in self.floors)
        likely = (y >= limit) | (y == 0)
        held = (z > -torch.inf) & likely & ((key > floor) | ((key == floor) & (ids >= edge)))
        return torch.where(self.temperatures[:, None] == 0, ids == self.survey.best.ids, held)
