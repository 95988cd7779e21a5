"""Steps 5 and 6: what the filters leave of the tokens of a row, and what it amounts to.

Mostly few tokens are left, all of them among the candidates: then filters, sums and draw look at those alone (`quick`).
A row of which that cannot be told takes the long way over its whole vocabulary (`whole`). Which way a row takes
depends on its own settings and logits alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptive.draw import draw
from adaptive.filters import CHAIN, LAST_LEADING, chain, max_surprisal_kept, min_p_floor
from adaptive.moments import Moments, Ranked, chunks, join, room, tempered
from adaptive.policies import Columns, Control
from adaptive.rows import Rows

FIGURES = ("kept_mass", "final_entropy", "effective", "top_token_prob", "log_sum", "scaled_entropy")
_LOWEST = -1.0e4


@dataclass(slots=True)
class Setting:
    """What steps 5 and 6 go by, `[rows]`. inverse: 1 / temperature. columns: the filters' parameters in force.
    greedy: rows that take the most likely token; None if there can be none."""

    control: Control
    inverse: Tensor
    columns: Columns
    greedy: Tensor | None


@dataclass(slots=True)
class Pool:
    """What some rows draw from.

    index: rows of the batch; None means all. ids: the tokens that were looked at `[rows, n]`; None means the whole
    vocabulary. weights: probabilities after temperature, 0 for what is removed; kept: 1 for what is left, else 0, both
    `[rows, n]`. figures: `FIGURES`, float64 `[6, rows]`.
    """

    index: Tensor | None
    ids: Tensor | None
    weights: Tensor
    kept: Tensor
    figures: Tensor

    def draw(self, u: Tensor) -> Tensor:
        """A token of each row by inversion, int64 `[n]`. u: float64 `[n]`, below 1."""
        if self.ids is None:
            return draw(self.weights, u)
        sums = self.weights.cumsum(-1)
        place = (sums <= u[:, None] * sums[:, -1:]).sum(-1, keepdim=True).clamp_(max=sums.shape[-1] - 1)
        return self.ids.gather(-1, place)[:, 0]

    def holds(self, tokens: Tensor) -> Tensor:
        """Which of the tokens `[rows, n]` can be drawn."""
        if self.ids is None:
            return self.kept.gather(-1, tokens) != 0
        return ((tokens[..., None] == self.ids[:, None]) & self.kept[:, None]).any(-1)

    def probabilities(self, vocab: int) -> Tensor:
        """What is drawn from, `[rows, vocab]`."""
        p = self.weights / self.weights.sum(-1, keepdim=True)
        return p if self.ids is None else p.new_zeros(len(p), vocab).scatter_(-1, self.ids, p)


def pools(ranked: Ranked, unchanged: Moments | None, rows: Rows, setting: Setting) -> list[Pool]:
    """The pools of a batch. Where a row is in two of them, the later one holds.

    unchanged: the moments at temperature 1, if they are known already.
    """
    if not rows.quick:
        return [whole(ranked, rows, None, setting)]
    first, decided = quick(ranked, unchanged, rows, setting)
    undecided = rows.slow
    if not bool(decided.all()):
        undecided = sorted([*undecided, *(rows.quick[i] for i in (~decided).nonzero()[:, 0].tolist())])
    if not undecided:
        return [first]
    if len(undecided) == len(rows):
        return [whole(ranked, rows, None, setting)]
    return [first, whole(ranked, rows, undecided, setting)]


def quick(ranked: Ranked, unchanged: Moments | None, rows: Rows, setting: Setting) -> tuple[Pool, Tensor]:
    """The pool of the rows whose filters mostly leave candidates only; of which rows that is so, `[n]`."""
    index = rows.quick_index
    inverse = part(setting.inverse, index)
    values, ids = (part(column, index) for column in ranked.best)
    if unchanged is not None and bool((inverse == 1.0).all()):
        moments = Moments(*(part(column, index) for column in unchanged))
    else:
        moments = tempered(ranked, inverse, index)
    y = (values - values[:, :1]).double() * inverse[:, None]
    logs = y - moments.log_sum[:, None]
    weights = logs.exp()
    everything = values.shape[-1] == ranked.logits.shape[-1]
    kept, ids = _leading(values, ids, y, logs, weights, everything, rows, setting)
    later = [active for active in rows.active if active.place > LAST_LEADING]
    if later:
        columns = {name: part(column, index) for name, column in setting.columns.items()}
        left = y.masked_fill(~kept, -torch.inf)
        kept = chain(left, [(active.place, active.among(rows.quick)) for active in later], columns, 1) > -torch.inf
    if setting.greedy is not None:
        lowest = ids.masked_fill(values < values[:, :1], ranked.logits.shape[-1]).amin(-1, keepdim=True)
        kept = torch.where(part(setting.greedy, index)[:, None], ids == lowest, kept)
    decided = (values.masked_fill(~kept, torch.inf).amin(-1) > values[:, -1]) | everything
    weights = weights * kept
    mass = weights.sum(-1)
    final = mass.log() - (weights * logs.clamp_min(_LOWEST)).sum(-1) / mass
    figures = (mass, final, kept.sum(-1).double(), weights.amax(-1) / mass, moments.log_sum, moments.entropy)
    return Pool(index, ids, weights, kept, torch.stack(figures)), decided


def _leading(
    values: Tensor,
    ids: Tensor,
    y: Tensor,
    logs: Tensor,
    weights: Tensor,
    everything: bool,
    rows: Rows,
    setting: Setting,
) -> tuple[Tensor, Tensor]:
    """What max_surprisal, top_k, top_p and min_p keep of candidates in falling order, `[rows, n]`, and their ids.

    A row that cannot be decided, because what is left goes beyond the candidates, keeps them all to the last.
    everything: the candidates are the whole vocabulary.
    """
    names = {CHAIN[active.place].name for active in rows.active}
    columns = {name: part(setting.columns[name], rows.quick_index)[:, None] for name in ("top_k", "top_p", "min_p")}
    count = values.shape[-1]
    kept = torch.ones_like(values, dtype=torch.bool)
    cut = None  # whether something may have removed tokens beyond the candidates
    if setting.control.max_surprisal is not None:
        most = part(setting.control.max_surprisal, rows.quick_index)[:, None]
        kept = ~(-logs > most) | (values == values[:, :1])
        cut = ~most.isnan()
    if "top_k" in names:
        k = columns["top_k"]
        kept = kept & (values >= values.gather(-1, k.nan_to_num(float(count)).clamp(max=count).long() - 1))
        cut = ~k.isnan() if cut is None else cut | ~k.isnan()
    if "top_p" in names:
        inside, ids = _top_p(values, ids, weights * kept, kept[:, -1:], cut, everything, columns["top_p"])
        kept = kept & inside
    if "min_p" in names:
        kept = kept & ~(y < min_p_floor(columns["min_p"].nan_to_num(0.0)))
    return kept, ids


def _top_p(
    values: Tensor, ids: Tensor, weights: Tensor, open_end: Tensor, cut: Tensor | None, everything: bool, p: Tensor
) -> tuple[Tensor, Tensor]:
    """What top-p keeps of candidates in falling order, and their ids, the higher first where its edge parts equals.

    open_end: the last candidate is left; then so is all beyond, unless something cut there: the mass is not known.
    """
    sums = weights.cumsum(-1)
    mass = sums[:, -1:]
    if not everything:
        unknown = 1.0 if cut is None else torch.where(cut, torch.inf, 1.0)
        mass = torch.where(open_end, unknown, mass)
    short = sums < torch.where(p < 1.0, p * mass, torch.inf)
    inside = torch.nn.functional.pad(short[:, :-1], (1, 0), value=True)
    split = (inside[:, :-1] & ~inside[:, 1:] & (values[:, :-1] == values[:, 1:])).any(-1, keepdim=True)
    if bool(split.any()):
        higher = ids.argsort(dim=-1, descending=True)
        order = higher.gather(-1, values.gather(-1, higher).argsort(dim=-1, descending=True, stable=True))
        ids = torch.where(split, ids.gather(-1, order), ids)
    return inside, ids


def whole(ranked: Ranked, rows: Rows, chosen: list[int] | None, setting: Setting) -> Pool:
    """The pool of rows (None: all) that look at the whole vocabulary."""
    z = ranked.logits
    index = None if chosen is None else torch.tensor(chosen, dtype=torch.int64, device=z.device)
    factor = part(setting.inverse, index).to(z.dtype)[:, None]
    portions = chunks(factor)
    space = room(z, 6, len(factor))
    results = []
    for portion in portions:
        members = portion if index is None else index[portion]
        here = space[:, : len(factor[portion])]
        y = torch.mul(ranked.shifted[members], factor[portion], out=here[5])
        if len(portions) == 1 and chosen is None:
            numbers = None
        else:
            numbers = (chosen or range(len(factor)))[portion]
        left = _left(y, ranked.logits[members], members, numbers, rows, setting)
        result = _sum(y, left, ranked.best.ids[members], here)
        results.append(result if len(portions) == 1 else tuple(one.clone() for one in result))
    weights, kept, figures = zip(*results, strict=True)
    return Pool(index, None, join(weights), join(kept), join(figures, -1))


def _left(
    y: Tensor, z: Tensor, members: Tensor | slice, numbers: Sequence[int] | None, rows: Rows, setting: Setting
) -> Tensor:
    """Step 5 for some rows: y with -inf for what is removed. numbers: which rows, on the host; None means all."""
    left = y
    if setting.control.max_surprisal is not None:
        most = setting.control.max_surprisal[members].nan_to_num(torch.inf)[:, None]
        left = left.masked_fill(~max_surprisal_kept(left, most), -torch.inf)
    active = [(one.place, one.among(numbers)) for one in rows.active]
    left = chain(left, active, {name: column[members] for name, column in setting.columns.items()}, rows.largest_k)
    if setting.greedy is not None:
        likeliest = torch.zeros_like(left).scatter(-1, z.argmax(-1, keepdim=True), 1.0) != 0
        left = left.masked_fill(setting.greedy[members][:, None] & ~likeliest, -torch.inf)
    return left


def _sum(y: Tensor, left: Tensor, best: Tensor, here: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(weights, kept, figures) of rows. here: room for five results of their size, which the first two lie in."""
    p = torch.softmax(y, -1, out=here[0])
    torch.mul(p, y, out=here[1])
    kept = torch.gt(left, -torch.inf, out=here[2])
    weights, used = here[0], here[:3]
    if left is not y:
        weights, used = torch.mul(p, kept, out=here[3]), here[:5]
        torch.mul(here[1], kept, out=here[4])
    total, mean, count, *rest = torch.nansum(used, -1).double().unbind()
    mass, inner = rest or (total, mean)
    log_sum = (total / p.gather(-1, best[:, :1])[:, 0]).log()
    final = (mass / total).log() + log_sum - inner / mass
    likeliest = weights.amax(-1) / mass
    figures = (mass / total, final, count, likeliest, log_sum, log_sum - mean / total)
    return weights, kept, torch.stack(figures)


def part(column: Tensor, index: Tensor | None) -> Tensor:
    """The rows of an index, None for all."""
    return column if index is None else column[index]


def merged(pools: list[Pool], rows: int) -> dict[str, Tensor]:
    """`FIGURES` by name, `[rows]`, float64."""
    figures = pools[0].figures
    if pools[0].index is not None:
        figures = figures.new_full((len(FIGURES), rows), torch.nan).index_copy_(1, pools[0].index, figures)
    for pool in pools[1:]:
        figures = figures.index_copy(1, pool.index, pool.figures)
    return dict(zip(FIGURES, figures.unbind(), strict=True))
