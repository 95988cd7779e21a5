"""Steps 5 and 6: what the filters leave of the tokens of a row, and what it amounts to.

Mostly few tokens are left, all of them among the candidates: then filters, sums and draw look at those alone (`quick`).
A row of which that cannot be told takes the long way over its whole vocabulary (`whole`). Which way a row takes
depends on its own settings and logits alone.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from adaptive.draw import draw
from adaptive.filters import CHAIN, FIRST_LEADING, LAST_LEADING, chain
from adaptive.kept import max_surprisal_kept
from adaptive.kept_candidates import amounts, draw_among, higher_first, keep
from adaptive.leading import lead
from adaptive.moments import Moments, Ranked, chunks, join, room, row_nansums, tempered
from adaptive.policies import Columns, Control
from adaptive.policies.base import LARGEST_INVERSE
from adaptive.rows import Rows, find_edges

_Edges = tuple[Tensor, Tensor | None, Tensor | None, Tensor, Tensor | None]
_ROUNDING = 1e-4
"""Nats by which the moments of a row, from float32, may be off, and more."""
FIGURES = ("kept_mass", "final_entropy", "effective", "top_token_prob", "log_sum", "scaled_entropy")


@dataclass
class Setting:
    """What steps 5 and 6 go by, `[rows]`. columns: the filters' parameters in force. dice: for xtc, if it is in use.
    sometimes_greedy: whether there can be rows that take the most likely token. complete: whether a policy that tells
    log_sum and scaled_entropy tells them of every row, as kernels see to for all of ours."""

    control: Control
    columns: Columns
    dice: Tensor | None = None
    sometimes_greedy: bool = False
    complete: bool = False

    @cached_property
    def greedy(self) -> Tensor | None:
        """Rows that take the most likely token; None if there can be none."""
        return self.control.temperature == 0 if self.sometimes_greedy else None

    @cached_property
    def inverse(self) -> Tensor:
        """1 / temperature, 1 where greedy."""
        inverse = self.control.temperature.double().reciprocal().clamp_max_(LARGEST_INVERSE)
        return inverse if self.greedy is None else inverse.masked_fill(self.greedy, 1.0)

    def of(self, rows: Tensor | slice | None) -> Columns:
        """What filters are given of some rows; None means all."""
        columns = self.columns if self.dice is None else self.columns | {"dice": self.dice}
        return columns if rows is None else {name: column[rows] for name, column in columns.items()}


@dataclass(slots=True)
class Pool:
    """What some rows draw from.

    index: rows of the batch; None means all. ids: the tokens that were looked at `[rows, n]`; None means the whole
    vocabulary. weights: probabilities after temperature, 0 for what is removed `[rows, n]`. kept: which of those tokens
    are left `[rows, n]`; of the whole vocabulary None: those of weight above 0, and all of rows that are `open`,
    to which no filter was applied. figures: `FIGURES`, float64 `[6, rows]`. packed: the records of a step whose logits
    nothing has changed (`adaptive.info.pack`), if the draw has told.
    """

    index: Tensor | None
    ids: Tensor | None
    weights: Tensor
    kept: Tensor | None
    figures: Tensor
    open: Tensor | None = None
    packed: Tensor | None = None

    def draw(self, u: Tensor) -> Tensor:
        """A token of each row by inversion in the order of ids, int64 `[n]`. u: float64 `[n]`, below 1.

        One order in every pool and on every device: a token does not hang on which way its row took.
        """
        if self.ids is None:
            return draw(self.weights, u)
        return draw_among(self.weights, self.ids, u)

    def holds(self, tokens: Tensor) -> Tensor:
        """Which of the tokens `[rows, n]` can be drawn."""
        if self.ids is None or self.kept is None:
            held = self.weights.gather(-1, tokens) > 0
            return held if self.open is None else held | self.open[:, None]
        return ((tokens[..., None] == self.ids[:, None]) & self.kept[:, None]).any(-1)

    def probabilities(self, vocab: int) -> Tensor:
        """What is drawn from, `[rows, vocab]`."""
        p = self.weights / self.weights.sum(-1, keepdim=True)
        return p if self.ids is None else p.new_zeros(len(p), vocab).scatter_(-1, self.ids, p)


def pools(ranked: Ranked, unchanged: Moments | None, rows: Rows, setting: Setting) -> list[Pool]:
    """The pools of a batch. Where a row is in two of them, the later one holds.

    unchanged: the moments at temperature 1, if they are known already.
    """
    if ranked.survey is not None and rows.fused:
        pool: Pool = ranked.survey.pool(rows, setting)
        return [pool] if rows.unfused is None else [pool, whole(ranked, rows, rows.unfused, setting)]
    if ranked.survey is not None or not rows.quick or (rows.flat and _hopeless(ranked, unchanged, rows, setting)):
        return [whole(ranked, rows, None, setting)]
    pool, undecided = quick(ranked, unchanged, rows, setting)
    rows.flat = len(undecided) == len(rows.quick)
    left = sorted([*rows.slow, *undecided])
    if not left:
        return [pool]
    if len(left) == len(rows):
        return [whole(ranked, rows, None, setting)]
    return [pool, whole(ranked, rows, left, setting)]


def quick(ranked: Ranked, unchanged: Moments | None, rows: Rows, setting: Setting) -> tuple[Pool, list[int]]:
    """The pool of the rows whose filters mostly leave candidates only; of which rows that could not be told."""
    index = rows.quick_index
    values, ids = (part(column, index) for column in ranked.best)
    log_sum, entropy = _normalizer(ranked, unchanged, rows, setting)
    greedy = None if setting.greedy is None else part(setting.greedy, index)
    everything = values.shape[-1] == ranked.logits.shape[-1]
    edges = _edges(everything, rows, setting)
    y, weights, kept, decided, whole_groups, settled = keep(
        values, part(setting.inverse, index), log_sum, *edges, greedy
    )
    undecided: list[int] = []
    if not bool(settled):
        ids = torch.where(whole_groups[:, None], ids, higher_first(values, ids))
        if not everything:
            undecided = [rows.quick[place] for place in (~decided).nonzero()[:, 0].tolist()]
    later = [active for active in rows.active if active.place > LAST_LEADING]
    if later:
        by_id = ids.argsort(dim=-1)  # among equals these filters choose by place
        left = y.masked_fill(~kept, -torch.inf).gather(-1, by_id)
        left = chain(left, [(active.place, active.among(index)) for active in later], setting.of(index), 1)
        kept = torch.zeros_like(kept).scatter_(-1, by_id, left > -torch.inf)
    if greedy is not None:
        lowest = ids.masked_fill(values < values[:, :1], ranked.logits.shape[-1]).amin(-1, keepdim=True)
        kept = torch.where(greedy[:, None], ids == lowest, kept)
    weights, figures = amounts(y, weights, kept, log_sum, entropy)
    return Pool(index, ids, weights, kept, figures), undecided


def _normalizer(ranked: Ranked, unchanged: Moments | None, rows: Rows, setting: Setting) -> tuple[Tensor, Tensor]:
    """(ln of the sum of exp(y), entropy) after temperature of the rows of `rows.quick`, from what is known already or
    a visit to the whole rows."""
    index, control = rows.quick_index, setting.control
    inverse = part(setting.inverse, index)
    if unchanged is not None and rows.plain:
        return part(unchanged.log_sum, index), part(unchanged.entropy, index)
    if control.log_sum is None or control.scaled_entropy is None:
        moments = tempered(ranked, inverse, index)
        return moments.log_sum, moments.entropy
    log_sum, entropy = part(control.log_sum, index), part(control.scaled_entropy, index)
    if setting.complete and len(rows.groups) == 1:
        return log_sum, entropy
    places = (log_sum + entropy).isnan().nonzero()[:, 0]
    if len(places):
        moments = tempered(ranked, inverse[places], places if index is None else index[places])
        log_sum, entropy = (
            log_sum.index_copy(0, places, moments.log_sum),
            entropy.index_copy(0, places, moments.entropy),
        )
    return log_sum, entropy


def _hopeless(ranked: Ranked, unchanged: Moments | None, rows: Rows, setting: Setting) -> bool:
    """Whether it is plain that `quick` could tell of no row, without its look at the whole vocabulary.

    The logarithm of the sum of exp(b y) is convex in b = 1 / temperature. So its tangent at 1, which is known, lies
    below it, and gives bounds above the candidates' probabilities: if top_p keeps all of them by these, it does.
    """
    values, index = ranked.best.values, rows.quick_index
    everything = values.shape[-1] == ranked.logits.shape[-1]
    if unchanged is None or everything or setting.greedy is not None or setting.control.max_surprisal is not None:
        return False
    inverse = part(setting.inverse, index)
    least = part(unchanged.log_sum, index) + (inverse - 1.0) * part(unchanged.mean, index) - _ROUNDING
    _, _, kept, *_ = keep(part(values, index), inverse, least, *_edges(everything, rows, setting), None)
    return bool(kept[:, -1].all())


def _edges(everything: bool, rows: Rows, setting: Setting) -> _Edges:
    """Where max_surprisal, top_k, top_p and min_p end, as `keep` takes it. everything: nothing lies beyond the
    candidates."""
    last, mass, share, lowest = rows.edges if setting.columns is rows.filters else find_edges(setting.columns, rows)
    most = setting.control.max_surprisal
    most = None if most is None else part(most, rows.quick_index)
    return last, None if everything else mass, share if rows.uses_top_p else None, lowest, most


def whole(ranked: Ranked, rows: Rows, chosen: list[int] | Tensor | None, setting: Setting) -> Pool:
    """The pool of rows (None: all) that look at the whole vocabulary."""
    z = ranked.logits
    index = None if chosen is None else torch.as_tensor(chosen, dtype=torch.int64, device=z.device)
    factor = part(setting.inverse, index).to(z.dtype)[:, None]
    portions = chunks(z, len(factor))
    space = room(z, 6, len(factor))
    weights = z.new_empty(len(factor), z.shape[-1])
    figures, free = [], []
    for portion in portions:
        members = portion if index is None else index[portion]
        here = space[:, : len(factor[portion])]
        y = ranked.scaled(members, factor[portion], here[5])
        p = torch.softmax(y, -1, out=here[0])
        best = ranked.best.ids[members]
        filtered = _filter(y, p, best, members, rows, setting, here[2])
        free.append(torch.full_like(factor[portion][:, 0], not filtered, dtype=torch.bool))
        sums = _sum(p, y, filtered, here)
        weights[portion] = here[3 if filtered else 0]
        figures.append(_figures(sums, p.gather(-1, best[:, :1])[:, 0]))
    return Pool(index, None, weights, None, join(figures, -1), open=join(free))


def _filter(
    y: Tensor,
    p: Tensor,
    best: Tensor,
    members: Tensor | slice,
    rows: Rows,
    setting: Setting,
    out: Tensor,
) -> bool:
    """Step 5 for some rows: into `out` 1 for the tokens that are left and 0 for others, `[n, vocab]`. Returns whether
    anything may have been removed.

    p: softmax(y). best: their most likely tokens. members: which rows these are.
    """
    surprisal = setting.control.max_surprisal
    everyone = isinstance(members, slice) and len(y) == len(rows)
    active = [(one.place, one.among(None if everyone else members)) for one in rows.active]
    active = [(place, index) for place, index in active if index is None or len(index)]
    if not active and surprisal is None and setting.greedy is None:
        torch.gt(y, -torch.inf, out=out)
        return False
    left, columns = y, setting.of(members)
    if surprisal is not None:
        most = surprisal[members].nan_to_num(torch.inf)[:, None]
        left = left.masked_fill(~max_surprisal_kept(left, most), -torch.inf)
    elif y.device.type == "cpu" and all(place >= FIRST_LEADING for place, _ in active):
        lead(y, p, best, columns, {CHAIN[place].name for place, _ in active}, out)
        active = [(place, index) for place, index in active if place > LAST_LEADING]
        if not active and setting.greedy is None:
            return True
        left = y.masked_fill(out == 0, -torch.inf)
    left = chain(left, active, columns, rows.largest_k)
    if setting.greedy is not None:
        first = (y == 0).float().argmax(-1, keepdim=True)
        others = torch.ones_like(y, dtype=torch.bool).scatter_(-1, first, False)
        left = torch.where(setting.greedy[members][:, None], y.masked_fill(others, -torch.inf), left)
    torch.gt(left, -torch.inf, out=out)
    return True


def _sum(p: Tensor, y: Tensor, filtered: bool, here: Tensor) -> Tensor:
    """Sums of rows, float64 `[6, rows]`: of p, p y, how many are kept, of these p and p y, and the largest p of these.

    here: room for five results of their size: p, p y, what is kept, and of that p and p y. The first and the third are
    there; the last two are made if something is filtered."""
    torch.mul(p, y, out=here[1])
    weights, used = p, here[:3]
    if filtered:
        weights, used = torch.mul(p, here[2], out=here[3]), here[:5]
        torch.mul(here[1], here[2], out=here[4])
    total, mean, count, *rest = row_nansums(used).double().unbind()
    return torch.stack([total, mean, count, *(rest or (total, mean)), weights.amax(-1).double()])


def _figures(sums: Tensor, top: Tensor) -> Tensor:
    """`FIGURES` from the sums of rows. top: the largest probability `[rows]`, of which y is 0."""
    total, mean, count, mass, inner, likeliest = sums.unbind()
    log_sum = (total / top).log_()
    final = (mass / total).log_() + log_sum - inner / mass
    return torch.stack([mass / total, final, count, likeliest / mass, log_sum, log_sum - mean / total])


def part(column: Tensor, index: Tensor | None) -> Tensor:
    """The rows of an index, None for all."""
    return column if index is None else column[index]


def merged(pools: list[Pool], rows: int) -> dict[str, Tensor]:
    """`FIGURES` by name, `[rows]`, float64."""
    figures = pools[0].figures
    if pools[0].index is not None:
        figures = figures.new_full((len(FIGURES), 1), torch.nan).expand(-1, rows)
    for pool in pools:
        figures = pool.figures if pool.index is None else figures.index_copy(1, pool.index, pool.figures)
    return dict(zip(FIGURES, figures.unbind(), strict=True))
