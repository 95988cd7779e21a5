"""The sampler on a GPU: `adaptive.gpu.kernels` in the places of `adaptive.moments`, the search of target_entropy, and
`adaptive.pool`. Nothing here waits for the device."""

import threading
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from adaptive.candidates import Candidates
from adaptive.filters import Filters
from adaptive.floors import Floored
from adaptive.gpu.kernels import dice, draw, leading, search, survey
from adaptive.info import WIDTH
from adaptive.moments import Moments, Ranked
from adaptive.moments import rank_and_measure as moments_on_cpu
from adaptive.policies import Control
from adaptive.pool import FIGURES, Setting, whole
from adaptive.rows import Rows, RowSettings

BLOCK = 32
"""Tokens whose maximum is known."""
KEEP = 128
"""Blocks with the largest maxima, in which a filter's floor is looked for first."""
TILE = 4096
"""Tokens that are worked on at a time, a power of 2 as all of these."""
_VISITS = 3
"""Visits to a row for its temperature that all of the device makes; one or two are mostly enough."""
_ALONE = 40
"""Visits that one program makes after them, if need be."""
_SURVEY, _VISIT, _KEEP = {"num_warps": 8, "maxnreg": 128}, {"num_warps": 4, "maxnreg": 128}, {"num_warps": 16}
"""How kernels are launched: what was fastest on an H200, of a dozen ways."""
_TRIED = (
    Filters(), Filters(top_k=40), Filters(top_p=0.9), Filters(top_p=0.99), Filters(min_p=0.05),
    Filters(top_k=200, top_p=0.8, min_p=0.01),
)  # fmt: skip


class _Counters(threading.local):
    """What programs of a kernel count together, zeros between kernels, int32 `[rows, COUNTERS]`; of each thread, whose
    kernels run one after another."""

    def __init__(self) -> None:
        self.made: list[Tensor] = []  # all of them: captured steps know the place of theirs

    def of(self, like: Tensor) -> Tensor:
        """For the rows of a tensor."""
        for counters in self.made:
            if counters.device == like.device and len(counters) >= len(like):
                return counters
        with torch.inference_mode(False):
            size = max(256, triton.next_power_of_2(len(like)))
            made = torch.zeros(size, survey.COUNTERS.value, dtype=torch.int32, device=like.device)
        self.made.append(made)
        return made


_counters = _Counters()


def _room(parts: int) -> int:
    """A power of 2 that the parts of a row fit in; the same for most vocabularies, so that a kernel compiles once."""
    return max(64, triton.next_power_of_2(parts))


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


@dataclass(slots=True)
class Survey:
    """What `kernels.survey` found in float32 logits `[rows, vocab]`: see there. foreseen: whether AHEAD was asked
    for."""

    logits: Tensor
    found: Tensor
    table: Tensor
    cuts: Tensor
    best: Candidates
    foreseen: bool

    @property
    def columns(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The first columns of `adaptive.entropy.Statistics`."""
        names = (survey.ENTROPY, survey.VARENTROPY, survey.TOP_PROB, survey.MAXIMUM, survey.NORMALIZER)
        h, v, top, maximum, normalizer = (self.found[name.value] for name in names)
        return h, v, top, maximum, normalizer

    @property
    def ahead(self) -> tuple[Tensor, Tensor] | None:
        """See `adaptive.entropy.Statistics`."""
        return (self.found[survey.AHEAD.value], self.found[survey.AHEAD.value + 1]) if self.foreseen else None

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
        log_sum, mean, square = (self.found[one.value] for one in (survey.LOG_SUM, survey.MEAN, survey.SQUARE))
        return Moments(log_sum, mean, square, square)

    @property
    def parts(self) -> int:
        """Parts of a row."""
        return triton.cdiv(self.logits.shape[1], TILE)

    def search(self, index: Tensor | None, target: Tensor, coldest: Tensor, hottest: Tensor) -> Control:
        """The temperature between two at which rows `index` (None: all) have the target entropy; float64 `[members]`.
        As `adaptive.search.solve` finds it."""
        rows, vocab = self.logits.shape
        members, new = len(target), self.found.new_empty
        partial, states, columns = new(members, self.parts, 4), new(search.STATE.value, members), new(5, members)
        for turn in range(_VISITS):
            search.visit[(members, self.parts)](
                self.logits, self.found, target if index is None else index, target, coldest, hottest,
                _counters.of(target), partial, states, *columns.unbind(), vocab, self.parts, rows,
                turn, _ALONE if turn == _VISITS - 1 else 0, CHOSEN=index is not None,
                PARTS_2=_room(self.parts), TILE=TILE, **_VISIT,
            )  # fmt: skip
        temperature, saturated, infeasible, log_sum, entropy = columns.unbind()
        return Control(temperature, saturated, infeasible, log_sum=log_sum, scaled_entropy=entropy)

    def pool(self, rows: Rows, setting: Setting) -> "Fused":
        """What max_surprisal, top_k, top_p and min_p leave of every row."""
        count, vocab = self.logits.shape
        new, counters = self.found.new_empty, _counters.of(self.logits)
        temperatures, (log_sums, entropies) = setting.control.temperature.double().contiguous(), self._tempered(setting)
        columns = [setting.columns[name].contiguous() for name in ("top_k", "top_p", "min_p")]
        most = setting.control.max_surprisal
        figures, limits = new(len(FIGURES), count), new(3, count)
        bounds = new(3, count, dtype=torch.int64)
        space = new(count, 3, self.parts, leading.EXCHANGED.value)
        queue = self.table.new_empty(count)
        asked = (
            self.logits, self.found, self.table, self.cuts, log_sums, entropies, temperatures, *columns,
            rows.absent if most is None else most.double().contiguous(), counters, queue,
        )  # fmt: skip
        width, blocks = self.table.shape[1], triton.cdiv(vocab, BLOCK)
        leading.keep[(count,)](
            *asked, figures, bounds, limits, vocab, width, blocks, self.parts,
            int(most is not None), **self.shape, **_KEEP,
        )  # fmt: skip
        if width < blocks:
            shape = {name: size for name, size in self.shape.items() if name != "TABLE"}
            leading.keep_whole[(_processors(self.logits.device),)](
                *asked, space, figures, bounds, limits, vocab, count, self.parts, int(most is not None),
                **shape, **_KEEP,
            )  # fmt: skip
        return Fused(
            index=None, ids=self.table, weights=self.logits, kept=None, figures=figures,
            setting=setting, temperatures=temperatures, survey=self, bounds=bounds, limits=limits, space=space,
        )  # fmt: skip

    @property
    def programs(self) -> int:
        """How many draw from one row."""
        return max(1, min(self.parts, _processors(self.logits.device) // len(self.logits)))

    @property
    def shape(self) -> dict[str, int]:
        """What kernels of `kernels.leading` and `kernels.draw` are compiled for."""
        table = BLOCK * triton.next_power_of_2(self.table.shape[1])
        return {"PARTS_2": _room(self.parts), "TABLE": table, "TILE": TILE, "BLOCK": BLOCK}

    def _tempered(self, setting: Setting) -> tuple[Tensor, Tensor]:
        """(logarithm of the sum of exp(y), entropy) after temperature, `[rows]`: a visit to rows whose policy has not
        told."""
        control, (rows, vocab) = setting.control, self.logits.shape
        new = self.found.new_empty
        known = control.log_sum is not None and control.scaled_entropy is not None
        log_sums, entropies = (control.log_sum, control.scaled_entropy) if known else new(2, rows).unbind()
        if not (known and setting.complete):
            survey.temper[(rows, self.parts)](
                self.logits, self.found, control.temperature.double().contiguous(), _counters.of(self.logits),
                new(rows, self.parts, 2), log_sums, entropies, vocab, self.parts, int(known),
                PARTS_2=_room(self.parts), TILE=TILE, **_VISIT,
            )  # fmt: skip
        assert log_sums is not None and entropies is not None
        return log_sums, entropies


@dataclass(slots=True, kw_only=True)
class Fused(Floored):
    """What kernels left. bounds, limits, space: see `kernels.leading`. larger: how many logits are larger than the
    drawn token's, once there is one."""

    survey: Survey
    bounds: Tensor
    limits: Tensor
    space: Tensor
    larger: Tensor | None = None

    @property
    def floors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.bounds[0], self.bounds[1], self.limits[:2].amax(0)

    def draw(self, u: Tensor) -> Tensor:
        seen, control = self.survey, self.setting.control
        count, vocab = seen.logits.shape
        drawn = self.bounds.new_empty(2, count)
        packed = self.figures.new_empty(count, WIDTH)
        columns = [self.setting.columns[name].contiguous() for name in ("top_k", "top_p", "min_p")]
        told = [column is not None for column in (control.saturated, control.infeasible)]
        flags = [
            u if column is None else column.double().contiguous() for column in (control.saturated, control.infeasible)
        ]
        draw.draw[(count, seen.programs)](
            seen.logits, seen.found, seen.table, self.temperatures, *columns, *flags, _counters.of(seen.logits),
            self.space, self.figures, self.bounds, self.limits, u.contiguous(), drawn[0], drawn[1], packed,
            vocab, seen.table.shape[1], seen.parts, WIDTH, *map(int, told), **seen.shape, **_KEEP,
        )  # fmt: skip
        self.larger, self.packed = drawn[1], packed
        return drawn[0]


def rank(logits: Tensor, ahead: Tensor | None = None, ladder: bool = False) -> Ranked:
    """As `adaptive.moments.rank_and_measure`, of float32 logits. ahead: 1 / temperature, float64 `[rows]`, NaN where it
    is not known: what is then found is `Survey.ahead`. ladder: whether `Survey.search` will be called."""
    rows, vocab = logits.shape
    logits = logits.contiguous()
    parts, blocks = triton.cdiv(vocab, TILE), triton.cdiv(vocab, BLOCK)
    keep = min(KEEP, blocks)
    found = torch.empty(survey.COLUMNS.value, rows, dtype=torch.float64, device=logits.device)
    partial, maxima = found.new_empty(rows, parts, survey.PARTS.value), logits.new_empty(rows, blocks)
    best = Candidates(logits.new_empty(rows, 1), torch.empty(rows, 1, dtype=torch.int64, device=logits.device))
    table = torch.empty(rows, keep, dtype=torch.int32, device=logits.device)
    cuts = table.new_empty(rows, 2)
    survey.survey[(rows, parts)](
        logits, found if ahead is None else ahead, _counters.of(logits), partial, maxima, found, *best, table, cuts,
        vocab, parts, blocks, keep, FORESEEN=ahead is not None, LADDER=ladder,
        PARTS_2=triton.next_power_of_2(parts), BLOCKS_2=triton.next_power_of_2(blocks), TILE=TILE, BLOCK=BLOCK,
        **_SURVEY,
    )  # fmt: skip
    return Ranked(logits, None, Survey(logits, found, table, cuts, best, ahead is not None))


def roll(seeds: Tensor, positions: Tensor, numbers: Tensor) -> None:
    """`adaptive.draw.uniform` of rows into `numbers`, float64 `[rows]`; their positions go on by one."""
    rows = len(seeds)
    dice.roll[(1,)](seeds, positions, numbers, rows, ROWS_2=triton.next_power_of_2(rows), num_warps=1)


def check(device: torch.device) -> None:
    """ArithmeticError unless the kernels give on this device what plain torch gives on the CPU."""
    # Of a size with which kernels are compiled as with most vocabularies: a multiple of 16.
    logits = torch.randn(len(_TRIED), 5008, generator=torch.Generator().manual_seed(0)) * 3.0
    u = torch.linspace(0.05, 0.95, len(_TRIED), dtype=torch.float64)
    temperature = torch.linspace(0.5, 1.5, len(_TRIED), dtype=torch.float64)

    def setting(rows: Rows, where: torch.device | str) -> Setting:
        t = temperature.to(where)
        return Setting(Control(t), rows.filters)

    here = Rows([RowSettings(filters=f) for f in _TRIED])
    there = Rows(here.settings, device)
    plain, moments, *_ = moments_on_cpu(logits)
    expected = whole(plain, here, None, setting(here, "cpu"))
    ranked = rank(logits.to(device))
    assert ranked.survey is not None
    measured = ranked.survey.moments
    got = ranked.survey.pool(there, setting(there, device))
    drawn = got.draw(u.to(device)).cpu()
    wanted, coldest, hottest = (torch.full_like(u, value) for value in (2.0, 0.1, 10.0))
    found = rank(logits.to(device), None, True).survey
    assert found is not None
    sought = found.search(None, *(column.to(device) for column in (wanted, coldest, hottest))).temperature.cpu()
    reached = moments_on_cpu((logits / sought[:, None]).float())[1].entropy
    same = torch.allclose(torch.stack(measured).cpu(), torch.stack(moments), atol=1e-4)
    same &= torch.allclose(got.figures.cpu(), expected.figures, atol=1e-4)
    same &= torch.allclose(reached, wanted, atol=1e-4)
    if not same or not torch.equal(drawn, expected.draw(u)):
        raise ArithmeticError("its kernels do not give what plain torch gives")
