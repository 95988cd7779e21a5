"""One step of many generations at once: measure, set the temperature, filter, draw, report.

Every row of the batch has its own policy, filters, penalties, seed, position and state (`adaptive.rows`). Rows are
tensors all the way: nothing here loops over rows, and the result of a row does not depend on its company.
"""

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from adaptive.draw import uniform
from adaptive.entropy import Statistics, measure, row_sum
from adaptive.filters import CHAIN, Filters
from adaptive.info import Columns as InfoColumns
from adaptive.info import Fault, Report, pack, shown
from adaptive.moments import Ranked, rank
from adaptive.parameters import ParameterError
from adaptive.policies import Columns, Control, Fixed, Outcome
from adaptive.pool import Pool, Setting, merged, part, pools
from adaptive.rows import Group, Rows, RowSettings

_DICE = 0x5851F42D4C957F2D
"""Sets the random numbers of xtc apart from those of the draw."""
_COLDEST = 1e30


@dataclass(slots=True)
class Masks:
    """What may not be drawn at a step. ruled_out: (row, token) indices. allowed: rows `[n]` with a constraint, and the
    tokens that it allows them, bool `[n, vocab]`."""

    ruled_out: tuple[Tensor, Tensor] | None = None
    allowed: tuple[Tensor, Tensor] | None = None


@dataclass(slots=True)
class Shaped:
    """A step before the draw: what was measured and decided, and what is left to draw from.

    changed: after step 2. inverse: 1 / temperature, 1 where greedy. columns: the filters' parameters in force.
    figures: `adaptive.pool.FIGURES`. greedy: rows that take the most likely token, None if there can be none.
    reshaped: rows whose policy reshapes, None if there are none. All but changed and pools `[rows]`.
    """

    statistics: Statistics
    control: Control
    changed: Ranked
    inverse: Tensor
    columns: Columns
    constraint_mass: Tensor | None
    pools: list[Pool]
    figures: Columns
    greedy: Tensor | None
    reshaped: Tensor | None

    def draw(self, u: Tensor) -> Tensor:
        """A token of each row, int64 `[rows]`. u: one number in [0, 1) a row."""
        tokens = self.pools[0].draw(part(u, self.pools[0].index))
        if self.pools[0].index is not None:
            tokens = tokens.new_zeros(len(u)).index_copy_(0, self.pools[0].index, tokens)
        for pool in self.pools[1:]:
            tokens = tokens.index_copy(0, pool.index, pool.draw(u[pool.index]))
        return tokens

    def scaled(self, ids: Tensor) -> Tensor:
        """Log probabilities of tokens `[rows, n]` after temperature, float64."""
        shifted = self.changed.logits.gather(-1, ids) - self.changed.best.values[:, :1]
        return shifted.double().mul_(self.inverse[:, None]).sub_(self.figures["log_sum"][:, None])

    def logprob(self, ids: Tensor, drawn: bool = False) -> Tensor:
        """Log probabilities of tokens `[rows, n]` in the distribution to draw from; NaN for what cannot be drawn.

        drawn: they come from `draw`, so that there is no need to ask.
        """
        logs = self.scaled(ids) - self.figures["kept_mass"].log()[:, None]
        if self.greedy is not None:
            logs = logs.masked_fill(self.greedy[:, None], 0.0)
        for pool in self.pools:
            part_of_it = part(logs, pool.index)
            if self.reshaped is not None and pool.ids is None:  # only rows that look at everything are reshaped
                new = pool.weights.gather(-1, part(ids, pool.index)).log().double()
                part_of_it = torch.where(part(self.reshaped, pool.index)[:, None], new, part_of_it)
            if not drawn:
                held = pool.holds(part(ids, pool.index)) & (part_of_it > -torch.inf)
                part_of_it = part_of_it.masked_fill(~held, torch.nan)
            logs = part_of_it if pool.index is None else logs.index_copy(0, pool.index, part_of_it)
        return logs

    def log_probabilities(self) -> Tensor:
        """Logarithms of the distribution to draw from, `[rows, vocab]`; -inf for what cannot be drawn."""
        whole = self.changed.logits.new_zeros(self.changed.logits.shape)
        for pool in self.pools:
            p = pool.probabilities(whole.shape[-1]).to(whole.dtype)
            whole = p if pool.index is None else whole.index_copy(0, pool.index, p)
        return whole.log()


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
    statistics = measure(logits)
    z, constraint_mass = _change(statistics, rows, masks)
    untouched = z is statistics.logits
    changed = statistics.source if untouched else rank(z)
    control = _decide(statistics, rows)
    temperature = control.temperature.double()
    inverse = temperature.reciprocal().clamp_max_(_COLDEST)  # a temperature near 0 must not make infinity times 0
    greedy = None
    if any(group.kind.sometimes_greedy for group in rows.groups):
        greedy = temperature == 0
        inverse = inverse.masked_fill(greedy, 1.0)
    setting = Setting(control, inverse, _filter_columns(control, rows), _xtc_dice(rows), greedy)
    found = pools(changed, statistics.moments if untouched else None, rows, setting)
    figures = merged(found, len(rows))
    reshaped = _reshape(found, figures, rows)
    return Shaped(
        statistics, control, changed, inverse, setting.columns, constraint_mass, found, figures, greedy, reshaped
    )


def conclude(shaped: Shaped, rows: Rows, tokens: Tensor, drawn: bool = False) -> Report:
    """Report which tokens were taken, and step 7. drawn: they come from `shaped.draw`."""
    statistics, ids = shaped.statistics, tokens[:, None]
    logit = statistics.logits.gather(-1, ids)
    filtered = shaped.logprob(ids, drawn)[:, 0]
    if shaped.greedy is not None:
        _report_greedy(shaped.figures, shaped.greedy)
    columns = InfoColumns(
        statistics=statistics,
        control=shaped.control,
        fault=_faults(shaped, rows),
        filters=rows.shown if shaped.columns is rows.filters else shown(shaped.columns),
        figures=shaped.figures,
        constraint_mass=rows.absent if shaped.constraint_mass is None else shaped.constraint_mass,
        absent=rows.absent,
        tokens=tokens,
        logprob=logit[:, 0] - statistics.log_normalizer,
        filtered_logprob=filtered,
        larger=_larger(statistics.source, logit),
    )
    states = _absorb(rows, shaped, columns, ids)
    if rows.repetition is not None:
        rows.repetition.append(tokens[rows.repetition.index])
    rows.dice.advance()
    choices = None
    if rows.candidates:
        values, likely = statistics.logits.topk(min(rows.candidates, statistics.vocab_size), -1)
        logs = values - statistics.log_normalizer[:, None]
        choices = torch.stack([likely.double(), logs.double(), shaped.logprob(likely)], -1)
    return Report(pack(columns, states, choices), statistics.vocab_size, 0 if states is None else states.shape[-1], rows.faults)


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


def _larger(ranked: Ranked, logit: Tensor) -> Tensor:
    """How many logits are larger, `[rows]`. logit: `[rows, 1]`."""
    best = ranked.best.values
    larger = (best > logit).sum(-1)
    if best.shape[-1] == ranked.logits.shape[-1]:
        return larger
    if logit.device.type != "cpu":
        return (ranked.logits > logit).sum(-1)
    beyond = logit < best[:, -1:]
    if bool(beyond.any()):
        for row in beyond.nonzero()[:, 0].tolist():
            larger[row] = (ranked.logits[row] > logit[row]).count_nonzero()
    return larger


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
        z = z.index_put(masks.ruled_out, z.new_tensor(-torch.inf))
    return z, mass


def _decide(statistics: Statistics, rows: Rows) -> Control:
    """Step 3: every kind of policy decides for its rows. What a policy has no notion of is NaN."""
    rows.faults = {}
    if len(rows.groups) == 1:
        return _control(rows.groups[0], statistics, rows)
    absent = torch.full_like(statistics.entropy, torch.nan, dtype=torch.float64)
    whole = Control(absent)
    for group in rows.groups:
        part = _control(group, statistics.select(group.index), rows)
        for field in fields(Control):
            values = getattr(part, field.name)
            if values is not None:
                before = getattr(whole, field.name)
                before = absent if before is None else before
                setattr(whole, field.name, before.index_copy(0, group.index, values.to(absent.dtype)))
    return whole


def _control(group: Group, statistics: Statistics, rows: Rows) -> Control:
    """The decision of one kind. A policy may be a stranger's: one that raises fails in its own row alone."""
    try:
        control = group.kind.control(statistics, group.parameters, group.state)
        _check_columns(group, temperature=control.temperature)
    except Exception:
        control = _control_one_by_one(group, statistics, rows)
    if not group.kind.sometimes_greedy:
        control.temperature = torch.where(control.temperature > 0, control.temperature, torch.nan)
    return control


def _check_columns(group: Group, **columns: Tensor) -> None:
    for name, column in columns.items():
        if not isinstance(column, Tensor) or column.shape != group.index.shape:
            raise TypeError(f"{name} must be a tensor of shape {list(group.index.shape)}")


def _control_one_by_one(group: Group, statistics: Statistics, rows: Rows) -> Control:
    """A loop over rows, entered only after a policy has raised, to find the row that it raises for."""
    temperatures = []
    for member, row in enumerate(group.rows):
        one = torch.tensor([member], device=group.index.device)
        alone = Group(group.kind, [row], one, _select(group.parameters, one), _select(group.state, one))
        chosen = group.index[one] if statistics.index is None else statistics.index[one]
        try:
            control = group.kind.control(statistics.select(one), alone.parameters, alone.state)
            _check_columns(alone, temperature=control.temperature)
            temperatures.append(control.temperature)
        except Exception as fault:
            rows.faults[row] = f"{type(fault).__name__}: {fault}"[:200]
            temperatures.append(torch.full_like(chosen, torch.nan, dtype=torch.float64))
    return Control(torch.cat([t.double() for t in temperatures]))


def _select(columns: Columns, index: Tensor) -> Columns:
    return {name: column[index] for name, column in columns.items()}


def _filter_columns(control: Control, rows: Rows) -> Columns:
    """The parameters of the filters in force, `[rows]`: the request's, or what its policy sets in place of them."""
    chosen = {name: getattr(control, name) for name in ("top_k", "top_p", "min_p")}
    if all(column is None for column in chosen.values()):
        return rows.filters
    return rows.filters | {
        name: torch.where(column.isnan(), rows.filters[name], column)
        for name, column in chosen.items()
        if column is not None
    }


def _xtc_dice(rows: Rows) -> Tensor | None:
    if not any(CHAIN[active.place].name == "xtc" for active in rows.active):
        return None
    return uniform(rows.seeds ^ _DICE, rows.dice.positions)


def _reshape(found: list[Pool], figures: Columns, rows: Rows) -> Tensor | None:
    """Let the policies that reshape do so to what they draw from; which rows `[rows]` that are, or None."""
    reshaped = None
    for group in rows.groups:
        if not group.kind.reshapes():
            continue
        if reshaped is None:
            reshaped = torch.zeros(len(rows), dtype=torch.bool, device=group.index.device)
        reshaped[group.index] = True
        pool = found[-1]  # rows of such a policy take the long way, which comes last
        here = group.index if pool.index is None else torch.searchsorted(pool.index, group.index)
        before = pool.weights[here]
        q = group.kind.reshape(before / row_sum(before)[:, None], group.parameters, group.state).to(before.dtype)
        pool.weights[here] = q
        figures["final_entropy"][group.index] = -row_sum(torch.xlogy(q, q)).double()
        figures["top_token_prob"][group.index] = q.amax(-1).double()
    return reshaped


def _faults(shaped: Shaped, rows: Rows) -> Tensor:
    """Why a row cannot be drawn, `[rows]`, float64."""
    temperature, maximum = shaped.control.temperature, shaped.statistics.maximum
    if shaped.changed is not shaped.statistics.source:
        maximum = maximum + shaped.changed.best.values[:, 0]
    if maximum.device.type == "cpu" and math.isfinite(float((maximum + temperature).sum())):
        return torch.zeros_like(maximum)
    undecided = torch.where(temperature.isfinite(), float(Fault.NONE), float(Fault.POLICY))
    return torch.where(maximum.isfinite(), undecided, float(Fault.LOGITS))


def _absorb(rows: Rows, shaped: Shaped, columns: InfoColumns, drawn: Tensor) -> Tensor | None:
    """Step 7: the states `[rows, most figures]` after the draw, NaN where a policy has fewer; None where all have none.
    Faults are noted."""
    width = max((len(group.kind.state) for group in rows.groups), default=0)
    if not width:
        return None
    states = torch.full((len(rows), width), torch.nan, dtype=torch.float64, device=drawn.device)
    outcome = _outcome(shaped, columns, drawn)
    for group in rows.groups:
        if not group.state:
            continue
        part = Outcome(*(getattr(outcome, field.name)[group.index].double() for field in fields(Outcome)))
        try:
            group.state = _renewed(group, part)
        except Exception:
            _absorb_one_by_one(group, part, rows, columns.fault)
        for place, value in enumerate(group.kind.state):
            states[group.index, place] = group.state[value.name]
    return states


def _outcome(shaped: Shaped, columns: InfoColumns, drawn: Tensor) -> Outcome:
    figures = shaped.figures
    after = torch.where(columns.filtered_logprob.isnan(), 0.0, figures["kept_mass"].log())
    kept_surprisal = after - shaped.scaled(drawn)[:, 0]
    return Outcome(shaped.statistics.entropy, figures["final_entropy"], -columns.logprob, kept_surprisal)


def _renewed(group: Group, outcome: Outcome) -> Columns:
    state = group.kind.absorb(group.parameters, group.state, outcome)
    _check_columns(group, **{value.name: state[value.name] for value in group.kind.state})
    return {name: column.double() for name, column in state.items()}


def _absorb_one_by_one(group: Group, outcome: Outcome, rows: Rows, fault: Tensor) -> None:
    """A loop over rows, entered only after a policy has raised, to find the row that it raises for."""
    for member, row in enumerate(group.rows):
        one = torch.tensor([member], device=group.index.device)
        alone = Group(group.kind, [row], one, _select(group.parameters, one), _select(group.state, one))
        part = Outcome(*(getattr(outcome, field.name)[one] for field in fields(Outcome)))
        try:
            for name, column in _renewed(alone, part).items():
                group.state[name] = group.state[name].index_copy(0, one, column)
        except Exception as raised:
            rows.faults[row] = f"{type(raised).__name__}: {raised}"[:200]
            fault[row] = int(Fault.POLICY)


def _report_greedy(figures: Columns, greedy: Tensor) -> None:
    """The figures of rows that take the most likely token, in place."""
    for name, value in (("final_entropy", 0.0), ("top_token_prob", 1.0), ("scaled_entropy", torch.nan)):
        figures[name] = figures[name].masked_fill(greedy, value)
    figures["kept_mass"] = figures["kept_mass"].masked_fill(greedy, torch.nan)
