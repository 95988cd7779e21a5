"""The sampler on a GPU: `adaptive.gpu.kernels` in the places of `adaptive.moments`, the search of target_entropy, and
`adaptive.pool`. Nothing here waits for the device."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from adaptive.candidates import Candidates
from adaptive.filters import Filters
from adaptive.gpu.kernels import leading, search, survey
from adaptive.moments import Moments, Ranked
from adaptive.moments import rank_and_measure as moments_on_cpu
from adaptive.policies import Control
from adaptive.pool import FIGURES, Pool, Setting, whole
from adaptive.rows import Rows, RowSettings

BLOCK = 256
"""Tokens whose maximum is known."""
KEEP = 64
"""Blocks with the largest maxima, in which a filter's floor is looked for first."""
TILE = 4096
"""Tokens that are worked on at a time, a power of 2 as all of these."""
_WARPS = 16
_TRIED = (
    Filters(), Filters(top_k=40), Filters(top_p=0.9), Filters(top_p=0.99), Filters(min_p=0.05),
    Filters(top_k=200, top_p=0.8, min_p=0.01),
)  # fmt: skip


@dataclass(slots=True)
class Survey:
    """What `kernels.survey` found in float32 logits `[rows, vocab]`: see there."""

    logits: Tensor
    found: Tensor
    table: Tensor
    cuts: Tensor

    @property
    def ties(self) -> Tensor:
        """How many tokens `[rows]` are as likely as the most likely."""
        return self.found[survey.TIES.value].long()

    @property
    def possible(self) -> Tensor:
        """How many tokens `[rows]` have a probability above 0."""
        return self.found[survey.POSSIBLE.value].long()

    @property
    def moments(self) -> Moments:
        """At temperature 1."""
        total, mean, square = (self.found[one.value] for one in (survey.TOTAL, survey.MEAN, survey.SQUARE))
        return Moments(total.log(), mean / total, square / total, square / total)

    def search(
        self,
        index: Tensor | None,
        bounds: tuple[Tensor, Tensor, Tensor],
        columns: tuple[Tensor, ...],
        stage: tuple[torch.dtype, float, float, int],
        first: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`adaptive.search._search` of rows `index` (None: all).

        bounds: (target, bottom, top). columns: (u, saturated, entropy, slope, done). stage: (dtype, near, rest,
        rounds). first: whether entropy and slope at u = 0 are there. Returns (u, saturated, slope, done).
        """
        dtype, near, rest, rounds = stage
        rows, vocab = self.logits.shape
        index = torch.arange(rows, device=self.logits.device) if index is None else index
        worked = torch.stack([column.double() for column in columns])
        targets, bottoms, tops = (column.double().contiguous() for column in bounds)
        search.search[(len(index),)](
            self.logits, self.found, index, targets, bottoms, tops, worked, vocab, rows, near, rest, int(first), rounds,
            TILE=TILE, TYPE=tl.float64 if dtype == torch.float64 else tl.float32, num_warps=_WARPS,
        )  # fmt: skip
        u, saturated, _, slope, done = worked.unbind()
        return u, saturated != 0, slope, done != 0

    def pool(self, rows: Rows, setting: Setting) -> "Fused":
        """What max_surprisal, top_k, top_p and min_p leave of every row."""
        count, vocab = self.logits.shape
        new = self.found.new_empty
        parts = triton.cdiv(vocab, TILE)
        inverse = setting.inverse.contiguous()
        partial = new(count, parts, 2)
        survey.temper[(count, parts)](self.logits, self.found, inverse, partial, vocab, parts, TILE=TILE)
        columns = [setting.columns[name].contiguous() for name in ("top_k", "top_p", "min_p")]
        most, greedy = setting.control.max_surprisal, setting.greedy
        most = rows.absent if most is None else most.double().contiguous()
        greedy = torch.zeros_like(inverse, dtype=torch.int8) if greedy is None else greedy.to(torch.int8)
        figures, limits = new(len(FIGURES), count), new(3, count)
        bounds = new(3, count, dtype=torch.int64)
        leading.keep_leading[(count,)](
            self.logits, self.found, self.table, self.cuts, partial, inverse, *columns, most, greedy,
            figures, bounds, limits, vocab, self.table.shape[1], triton.cdiv(vocab, BLOCK), parts,
            PARTS_2=triton.next_power_of_2(parts), TILE=TILE, BLOCK=BLOCK, num_warps=_WARPS,
        )  # fmt: skip
        return Fused(
            index=None, ids=self.table, weights=self.logits, kept=None, figures=figures,
            survey=self, inverse=inverse, greedy=greedy, bounds=bounds, limits=limits,
        )  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Fused(Pool):
    """A pool of all rows that is two numbers a row: the lowest logit that is left, and of the tokens with just that
    logit the first id. weights: the logits. bounds, limits: see `kernels.leading`."""

    survey: Survey
    inverse: Tensor
    greedy: Tensor
    bounds: Tensor
    limits: Tensor

    def draw(self, u: Tensor) -> Tensor:
        seen = self.survey
        count, vocab = seen.logits.shape
        drawn = self.bounds.new_empty(2, count)
        leading.draw[(count,)](
            seen.logits, seen.found, seen.table, self.inverse, self.greedy, self.bounds, self.limits, u.contiguous(),
            drawn[0], drawn[1], vocab, seen.table.shape[1], triton.cdiv(vocab, BLOCK),
            TILE=TILE, BLOCK=BLOCK, num_warps=_WARPS,
        )  # fmt: skip
        self.larger = drawn[1]
        return drawn[0]

    def holds(self, tokens: Tensor) -> Tensor:
        return self._held(self.survey.logits.gather(-1, tokens), tokens)

    def probabilities(self, vocab: int) -> Tensor:
        ids = torch.arange(vocab, device=self.inverse.device)[None]
        held = self._held(self.survey.logits, ids)
        p = self._y(self.survey.logits).exp() * held
        return (p / p.sum(-1, keepdim=True)).to(self.weights.dtype)

    def _y(self, logits: Tensor) -> Tensor:
        top = self.survey.found[survey.MAXIMUM.value].float()[:, None]
        return (logits - top) * self.inverse.float()[:, None]

    def _held(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Which tokens `[rows, n]` are left; as `kernels.leading` has it."""
        z, y = logits + 0.0, self._y(logits).double()
        bits = z.view(torch.int32)
        key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        floor, edge = self.bounds[0][:, None], self.bounds[1][:, None]
        least, lowest = self.limits[0][:, None], self.limits[1][:, None]
        likely = ((y >= least) & (y >= lowest)) | (y == 0)
        held = (z > -torch.inf) & likely & ((key > floor) | ((key == floor) & (ids >= edge)))
        best = self.survey.found[survey.BEST.value][:, None]
        return torch.where(self.greedy[:, None] != 0, ids == best, held)


def rank(logits: Tensor) -> Ranked:
    """As `adaptive.moments.rank`, of float32 logits."""
    rows, vocab = logits.shape
    logits = logits.contiguous()
    parts, blocks = triton.cdiv(vocab, TILE), triton.cdiv(vocab, BLOCK)
    keep = min(KEEP, blocks)
    width = survey.PARTS.value
    partial = torch.empty(rows, parts, width, dtype=torch.float64, device=logits.device)
    maxima = logits.new_empty(rows, blocks)
    survey.survey[(rows, parts)](logits, partial, maxima, vocab, parts, blocks, TILE=TILE, BLOCK=BLOCK)
    found = partial.new_empty(width, rows)
    table = torch.empty(rows, keep, dtype=torch.int32, device=logits.device)
    cuts = table.new_empty(rows, 2)
    survey.rank[(rows,)](
        partial, maxima, found, table, cuts, parts, blocks, keep,
        PARTS_2=triton.next_power_of_2(parts), BLOCKS_2=triton.next_power_of_2(blocks),
    )  # fmt: skip
    best = Candidates(found[survey.MAXIMUM.value].float()[:, None], found[survey.BEST.value].long()[:, None])
    return Ranked(logits, best, Survey(logits, found, table, cuts))


def rank_and_measure(logits: Tensor) -> tuple[Ranked, Moments]:
    """As `adaptive.moments.rank_and_measure`, of float32 logits."""
    ranked = rank(logits)
    assert ranked.survey is not None
    return ranked, ranked.survey.moments


def check(device: torch.device) -> None:
    """ArithmeticError unless the kernels give on this device what plain torch gives on the CPU."""
    logits = torch.randn(len(_TRIED), 5000, generator=torch.Generator().manual_seed(0)) * 3.0
    u = torch.linspace(0.05, 0.95, len(_TRIED), dtype=torch.float64)
    temperature = torch.linspace(0.5, 1.5, len(_TRIED), dtype=torch.float64)

    def setting(rows: Rows, where: torch.device | str) -> Setting:
        t = temperature.to(where)
        return Setting(Control(t), t.reciprocal(), rows.filters, None, None)

    here = Rows([RowSettings(filters=f) for f in _TRIED])
    there = Rows(here.settings, device)
    plain, moments = moments_on_cpu(logits)
    expected = whole(plain, here, None, setting(here, "cpu"))
    ranked, measured = rank_and_measure(logits.to(device))
    assert ranked.survey is not None
    got = ranked.survey.pool(there, setting(there, device))
    drawn = got.draw(u.to(device)).cpu()
    same = torch.allclose(torch.stack(measured).cpu(), torch.stack(moments), atol=1e-4)
    same &= torch.allclose(got.figures.cpu(), expected.figures, atol=1e-4)
    if not same or not torch.equal(drawn, expected.draw(u)):
        raise ArithmeticError("its kernels do not give what plain torch gives")
