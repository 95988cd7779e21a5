"""One step of many generations at once: measure, set the temperature, filter, draw, report.

Every row of the batch has its own policy, filters, penalties, seed, position and state (`adaptive.rows`). Rows are
tensors all the way: nothing here loops over rows, and the result of a row does not depend on its company.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from adaptive.calls import absorb, decide, reshape
from adaptive.draw import uniform
from adaptive.entropy import LOWEST_LOG_PROBABILITY, Statistics, measure, row_sum
from adaptive.filters import CHAIN, Filters
from adaptive.info import Report, fault_of, field, pack, shown
from adaptive.moments import Ranked, chunks, rank
from adaptive.parameters import ParameterError
from adaptive.policies import Columns, Control, Fixed, Outcome
from adaptive.policies.base import LARGEST_VOCABULARY
from adaptive.pool import Pool, Setting, merged, part, pools
from adaptive.rows import Rows, RowSettings
from adaptive.scratch import scratch

_DICE = 0x5851F42D4C957F2D
"""Sets the random numbers of xtc apart from those of the draw."""


@dataclass(slots=True)
class Masks:
    """What may not be drawn at a step. ruled_out: (row, token) indices. allowed: rows `[n]` with a constraint, and the
    tokens that it allows them, bool `[n, vocab]`."""

    ruled_out: tuple[Tensor, Tensor] | None = None
    allowed: tuple[Tensor, Tensor] | None = None


@dataclass
class Shaped:
    """A step before the draw: what was measured and decided, and what is left to draw from.

    ranked: the logits after step 2. touched: rows whose logits it may have changed, None if it changed none. reshaped:
    rows whose policy reshapes, None if there are none. All but ranked and pools `[rows]`.
    """

    statistics: Statistics
    ranked: Ranked
    setting: Setting
    constraint_mass: Tensor | None
    touched: Tensor | None
    pools: list[Pool]
    reshaped: Tensor | None = None

    @cached_property
    def figures(self) -> Columns:
        """`adaptive.pool.FIGURES`."""
        return merged(self.pools, len(self.ranked.logits))

    @property
    def changed(self) -> Tensor:
        """The logits after step 2, `[rows, vocab]`."""
        return self.ranked.logits

    def draw(self, u: Tensor) -> Tensor:
        """A token of each row, int64 `[rows]`. u: one number in [0, 1) a row."""
        if len(self.pools) == 1 and self.pools[0].index is None:
            return self.pools[0].draw(u)
        tokens = torch.zeros_like(u, dtype=torch.int64)
        for pool in self.pools:
            drawn = pool.draw(part(u, pool.index))
            tokens = drawn if pool.index is None else tokens.index_copy(0, pool.index, drawn)
        return tokens

    @property
    def untold(self) -> Tensor | None:
        """Rows whose record the first pool cannot tell, bool `[rows]`; None if there are none."""
        if len(self.pools) == 1:
            return self.touched
        rows = torch.zeros_like(self.ranked.logits[:, 0], dtype=torch.bool) if self.touched is None else self.touched
        for pool in self.pools[1:]:
            assert pool.index is not None  # the first alone can be of all rows
            rows = rows.index_fill(0, pool.index, True)
        return rows

    @property
    def told(self) -> Pool | None:
        """The pool of all rows, of logits that nothing has changed; None if there is none."""
        alone = len(self.pools) == 1 and self.ranked is self.statistics.source
        return self.pools[0] if alone else None

    def scaled(self, ids: Tensor) -> Tensor:
        """Log probabilities of tokens `[rows, n]` after temperature, float64."""
        shifted = self.ranked.logits.gather(-1, ids) - self.ranked.best.values[:, :1]
        return shifted.double().mul_(self.setting.inverse[:, None]).sub_(self.figures["log_sum"][:, None])

    def logprob(self, ids: Tensor, drawn: bool = False) -> Tensor:
        """Log probabilities of tokens `[rows, n]` in the distribution to draw from; NaN for what cannot be drawn.

        drawn: they come from `draw`, so that there is no need to ask.
        """
        logs = self.scaled(ids) - self.figures["kept_mass"].log()[:, None]
        if self.setting.greedy is not None:
            logs = logs.masked_fill(self.setting.greedy[:, None], 0.0)
        held = None if drawn else torch.zeros_like(logs, dtype=torch.bool)
        for pool in self.pools:
            chosen = part(ids, pool.index)
            if self.reshaped is not None and pool.ids is None:  # only rows that look at everything are reshaped
                new = pool.weights.gather(-1, chosen).log().double()
                new = torch.where(part(self.reshaped, pool.index)[:, None], new, part(logs, pool.index))
                logs = new if pool.index is None else logs.index_copy(0, pool.index, new)
            if held is not None:
                here = pool.holds(chosen) & (part(logs, pool.index) > -torch.inf)
                held = here if pool.index is None else held.index_copy(0, pool.index, here)
        return logs if held is None else logs.masked_fill(~held, torch.nan)

    @property
    def probabilities(self) -> Tensor:
        """The distribution to draw from, `[rows, vocab]`."""
        whole = torch.zeros_like(self.changed)
        for pool in self.pools:
            p = pool.probabilities(whole.shape[-1]).to(whole.dtype)
            whole = p if pool.index is None else whole.index_copy(0, pool.index, p)
        return whole

    def log_probabilities(self) -> Tensor:
        """Logarithms of the distribution to draw from, `[rows, vocab]`; -inf for what cannot be drawn."""
        return self.probabilities.log()


def step(logits: Tensor, rows: Rows, masks: Masks | None = None, tokens: Tensor | None = None) -> tuple[Tensor, Report]:
    """Draw one token for every row and advance the rows.

    logits: `[rows, vocab]`, any float dtype, raw. tokens: int64 `[rows]` that are taken instead of a draw, to score a
    given text. Returns (tokens int64 `[rows]` on the device, the report).

    1. The original statistics, of logits that nothing has touched.
    2. Biases, penalties, masks.
    3. The policies map the statistics and their state to temperatures, and some to filters.
    4. Scale.
    5. What the policies drop, then the filters of `CHAIN`, each on what the one before it left.
    6. Renormalise, reshape, measure, draw.
    7. The policies' states take in what was drawn; every row is one position further.
    """
    shaped = shape(logits, rows, masks)
    if tokens is not None:
        return tokens, conclude(shaped, rows, tokens)
    tokens = shaped.draw(rows.dice.next())
    return tokens, conclude(shaped, rows, tokens, drawn=True)


def shape(logits: Tensor, rows: Rows, masks: Masks | None = None) -> Shaped:
    """Steps 1 to 6 up to the draw."""
    statistics = measure(logits, rows.ahead, rows.seeks)
    z, constraint_mass = _change(statistics, rows, masks)
    untouched = z is statistics.logits
    changed = statistics.source if untouched else rank(z)
    control = decide(statistics, rows)
    touched = None if untouched else _touched(rows, masks)
    if touched is not None and control.log_sum is not None:  # what a policy knows is of the original logits
        control.log_sum = control.log_sum.masked_fill(touched, torch.nan)
    greedy = any(group.kind.sometimes_greedy for group in rows.groups)
    complete = untouched and all(group.kind.sound for group in rows.groups)
    setting = Setting(control, _filter_columns(control, rows), _xtc_dice(rows), greedy, complete)
    found = pools(changed, statistics.moments if untouched else None, rows, setting)
    shaped = Shaped(statistics, changed, setting, constraint_mass, touched, found)
    shaped.reshaped = _reshaped(shaped, rows)
    return shaped


def conclude(shaped: Shaped, rows: Rows, tokens: Tensor, drawn: bool = False) -> Report:
    """Report which tokens were taken, and step 7. drawn: they come from `shaped.draw`."""
    statistics, ids = shaped.statistics, tokens[:, None]
    packed = _records(shaped, rows, tokens, drawn)
    states = None
    if any(group.state for group in rows.groups):
        states = absorb(rows, _outcome(shaped, packed, ids), field(packed, "fault"))
    if rows.repetition is not None:
        rows.repetition.append(tokens[rows.repetition.index])
    rows.dice.advance()
    choices = None
    if rows.candidates:
        values, likely = statistics.logits.topk(min(rows.candidates, statistics.vocab_size), -1)
        logs = values - statistics.log_normalizer[:, None]
        choices = torch.stack([likely.double(), logs.double(), shaped.logprob(likely)], -1).flatten(1)
    parts = [part for part in (packed, states, choices) if part is not None]
    return Report(
        parts[0] if len(parts) == 1 else torch.cat(parts, -1), statistics.vocab_size, rows.figures, rows.faults
    )


def _records(shaped: Shaped, rows: Rows, tokens: Tensor, drawn: bool) -> Tensor:
    """The records of a step but for states. What kernels tell of a row they tell in any company: in the last bits it
    may be another than what plain torch tells."""
    told = shaped.pools[0].packed if drawn else None
    if told is None:
        return _packed(shaped, rows, tokens, drawn)
    untold = shaped.untold
    return told if untold is None else torch.where(untold[:, None], _packed(shaped, rows, tokens, drawn), told)


def _packed(shaped: Shaped, rows: Rows, tokens: Tensor, drawn: bool) -> Tensor:
    """The records of a step but for states, as `adaptive.info.pack` has them."""
    statistics, control, setting = shaped.statistics, shaped.setting.control, shaped.setting
    ids, figures = tokens[:, None], _shown(shaped)
    logit = statistics.logits.gather(-1, ids)
    filters = rows.shown if setting.columns is rows.filters else shown(setting.columns)
    given = {
        "original_entropy": statistics.entropy,
        "final_entropy": figures["final_entropy"],
        "effective_vocab_size": figures["effective"],
        "top_token_prob": figures["top_token_prob"],
        "varentropy": statistics.varentropy,
        "scaled_entropy": figures["scaled_entropy"],
        "original_top_prob": statistics.top_prob,
        "kept_mass": figures["kept_mass"],
        "saturated": None if control.saturated is None else control.saturated.double(),
        "infeasible": None if control.infeasible is None else control.infeasible.double(),
        "constraint_mass": shaped.constraint_mass,
    }
    untouched = shaped.ranked is statistics.source
    packed = pack(
        statistics.best,
        tokens,
        logit,
        logit if untouched else shaped.changed.gather(-1, ids),
        shaped.ranked.best.top,
        _maximum(shaped),
        statistics.log_normalizer,
        control.temperature.double(),
        setting.inverse,
        shaped.figures["log_sum"],
        shaped.figures["kept_mass"].log(),
        given | filters,
    )
    if not drawn or shaped.reshaped is not None:
        field(packed, "filtered_logprob").copy_(shaped.logprob(ids, drawn)[:, 0])
    elif setting.greedy is not None:
        field(packed, "filtered_logprob").masked_fill_(setting.greedy, 0.0)
    told = shaped.told if drawn else None
    if told is None or told.ids is None:  # else the token is one of the most likely
        _count_larger(statistics.source, logit, field(packed, "rank"))
    return packed


def get_sampling_info(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> dict[str, Any]:
    """What temperature and filters do to one row of logits `[vocab]`, as nine figures; entropies in nats.

    ValueError for parameters out of range, and for logits that are no distribution.
    """
    if logits.dim() != 1:
        raise ParameterError([("logits", f"must be one row [vocab], not of shape {list(logits.shape)}")])
    filters = Filters(top_k=top_k, top_p=top_p, min_p=min_p)
    rows = Rows([RowSettings(Fixed(temperature), filters)], logits.device)
    info, _ = step(logits[None], rows)[1].records()[0]
    if info.fault:
        raise ParameterError([("logits", "must hold a finite number, and neither NaN nor +inf")])
    return {
        "original_entropy": info.original_entropy,
        "final_entropy": info.final_entropy,
        "entropy_change": info.entropy_change,
        "effective_vocab_size": info.effective_vocab_size,
        "original_vocab_size": info.original_vocab_size,
        "top_token_prob": info.top_token_prob,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
    }


def _count_larger(ranked: Ranked, logit: Tensor, larger: Tensor) -> None:
    """Correct how many logits are larger, `[rows]`, in place, where only the most likely tokens were counted. logit:
    `[rows, 1]`."""
    counted = ranked.best.values.shape[-1]
    if logit.device.type != "cpu":
        larger.copy_((ranked.logits > logit).sum(-1))
    elif counted < ranked.logits.shape[-1]:
        beyond = (larger == counted).tolist()
        for portion in chunks(ranked.logits, len(logit)) if any(beyond) else ():
            if any(beyond[portion]):
                # Of floats: torch takes three times longer for a mask of bool.
                z = ranked.logits[portion]
                above = torch.gt(z, logit[portion], out=scratch("above", tuple(z.shape), z))
                larger[portion] = above.sum(-1).double()


def _change(statistics: Statistics, rows: Rows, masks: Masks | None) -> tuple[Tensor, Tensor | None]:
    """Step 2: (changed logits, the model's own mass that constraints left, NaN without one; None if none has one)."""
    z = statistics.logits
    mass = None
    if rows.bias is not None:
        places, values = rows.bias
        z = z.index_put(places, values.to(z.dtype), accumulate=True)
    if rows.repetition is not None:
        index = rows.repetition.index
        z = z.index_copy(0, index, rows.repetition.apply(z[index]))
    if masks is not None and masks.allowed is not None:
        index, allowed = masks.allowed
        mass = torch.full_like(statistics.entropy, torch.nan)
        mass[index] = row_sum(statistics.logits[index].softmax(-1) * allowed).double()
        z = z.index_copy(0, index, z[index].masked_fill(~allowed, -torch.inf))
    if masks is not None and masks.ruled_out is not None:
        z = z.index_put(masks.ruled_out, z.new_full((), -torch.inf))  # filled on the device, not copied to it
    return z, mass


def _touched(rows: Rows, masks: Masks | None) -> Tensor:
    """Rows `[rows]` whose logits step 2 may have changed."""
    touched = torch.zeros_like(rows.seeds, dtype=torch.bool)
    if rows.bias is not None:
        touched.index_fill_(0, rows.bias[0][0], True)
    if rows.repetition is not None:
        touched.index_fill_(0, rows.repetition.index, True)
    for mask in () if masks is None else (masks.ruled_out, masks.allowed):
        if mask is not None:
            touched.index_fill_(0, mask[0], True)
    return touched


def _filter_columns(control: Control, rows: Rows) -> Columns:
    """The parameters of the filters in force, `[rows]`: the request's, or what its policy sets in place of them."""
    chosen = {name: getattr(control, name) for name in ("top_k", "top_p", "min_p")}
    if all(column is None for column in chosen.values()):
        return rows.filters
    most = {"top_k": float(LARGEST_VOCABULARY), "top_p": 1.0, "min_p": 1.0}
    return rows.filters | {
        name: torch.where(column.isnan(), rows.filters[name], column.clamp(float(name == "top_k"), most[name]))
        for name, column in chosen.items()
        if column is not None
    }


def _xtc_dice(rows: Rows) -> Tensor | None:
    if not any(CHAIN[active.place].name == "xtc" for active in rows.active):
        return None
    return uniform(rows.seeds ^ _DICE, rows.dice.positions)


def _reshaped(shaped: Shaped, rows: Rows) -> Tensor | None:
    """Let the policies that reshape do so to what they draw from; which rows `[rows]` that are, or None."""
    if not any(group.kind.reshapes() for group in rows.groups):
        return None
    pool, figures = shaped.pools[-1], shaped.figures  # rows of such a policy take the long way, which comes last
    reshaped = reshape(pool.weights, pool.index, shaped.setting.control, rows)
    q = pool.weights
    changed = part(reshaped, pool.index)
    new = {"final_entropy": -row_sum(torch.where(q > 0, q * q.log(), 0.0)), "top_token_prob": q.amax(-1)}
    for name, column in new.items():
        column = torch.where(changed, column.double(), part(figures[name], pool.index))
        figures[name] = column if pool.index is None else figures[name].index_copy(0, pool.index, column)
    return reshaped


def faults(shaped: Shaped) -> Tensor:
    """Why each row cannot be drawn: a `Fault`, `[rows]`, float64."""
    return fault_of(_maximum(shaped), shaped.setting.control.temperature)


def _maximum(shaped: Shaped) -> Tensor:
    """The largest logit, `[rows]`; not finite if a row is no distribution, or nothing is left of it."""
    maximum = shaped.statistics.maximum
    return maximum if shaped.ranked is shaped.statistics.source else maximum + shaped.ranked.best.values[:, 0]


def _outcome(shaped: Shaped, packed: Tensor, drawn: Tensor) -> Outcome:
    after = torch.where(field(packed, "filtered_logprob").isnan(), 0.0, shaped.figures["kept_mass"].log())
    kept_surprisal = after - shaped.scaled(drawn)[:, 0]
    # Of a token that the model rules out (only scoring meets one) no mean would recover.
    surprisal = -field(packed, "logprob").clamp_min(LOWEST_LOG_PROBABILITY)
    kept_surprisal = kept_surprisal.clamp_max(-LOWEST_LOG_PROBABILITY)
    return Outcome(shaped.statistics.entropy, field(packed, "final_entropy"), surprisal, kept_surprisal)


def _shown(shaped: Shaped) -> Columns:
    """The figures as they are reported: rows that take the most likely token have some of their own."""
    greedy = shaped.setting.greedy
    if greedy is None:
        return shaped.figures
    own = {"final_entropy": 0.0, "top_token_prob": 1.0, "scaled_entropy": torch.nan, "kept_mass": torch.nan}
    return shaped.figures | {name: shaped.figures[name].masked_fill(greedy, own[name]) for name in own}
