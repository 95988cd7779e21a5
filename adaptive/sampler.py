"""One step of many generations at once: measure, set the temperature, filter, draw, report.

Every row of the batch has its own policy, filters, penalties, seed, position and state (`adaptive.rows`). Rows are
tensors all the way: nothing here loops over rows, and the result of a row does not depend on its company.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adaptive.calls import absorb, decide, reshape
from adaptive.draw import draw, uniform
from adaptive.entropy import LOWEST_LOG_PROBABILITY, Statistics, log_probabilities, measure, row_sum
from adaptive.filters import CHAIN, Filters, max_surprisal_kept
from adaptive.info import Columns as InfoColumns
from adaptive.info import Fault, Report, pack
from adaptive.parameters import ParameterError
from adaptive.policies import Columns, Control, Fixed, Outcome
from adaptive.policies.base import LARGEST_VOCABULARY
from adaptive.rows import Rows, RowSettings

_COLDEST = 1e-12
"""A lower temperature changes nothing that a float32 logit can show, and its inverse might be infinite."""
_DICE = 0x5851F42D4C957F2D
"""Sets the random numbers of xtc apart from those of the draw."""


@dataclass(slots=True)
class Masks:
    """What may not be drawn at a step. ruled_out: (row, token) indices. allowed: rows `[n]` with a constraint, and the
    tokens that it allows them, bool `[n, vocab]`."""

    ruled_out: tuple[Tensor, Tensor] | None = None
    allowed: tuple[Tensor, Tensor] | None = None


@dataclass(slots=True)
class Shaped:
    """A step before the draw: what was measured and decided, and the distribution to draw from.

    changed: logits after step 2. scaled: log probabilities after step 4. probabilities: after step 6. kept: which
    tokens can be drawn, all three `[rows, vocab]`. greedy: rows that take the most likely token, None if there can be
    none. reshaped: rows whose policy reshapes, None if there are none.
    """

    statistics: Statistics
    control: Control
    changed: Tensor
    scaled: Tensor
    kept: Tensor
    kept_mass: Tensor
    probabilities: Tensor
    constraint_mass: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    greedy: Tensor | None
    reshaped: Tensor | None

    def log_probabilities(self) -> Tensor:
        """Logarithms of the distribution to draw from, `[rows, vocab]`; -inf for what cannot be drawn."""
        logs = self.probabilities.log()
        if self.greedy is not None:
            best = torch.zeros_like(self.kept).scatter(-1, self.changed.argmax(-1, keepdim=True), True)
            logs = torch.where(self.greedy[:, None], torch.where(best, 0.0, -torch.inf), logs)
        return logs

    def logprob(self, ids: Tensor) -> Tensor:
        """Log probabilities of tokens `[rows, n]` in the distribution to draw from; NaN for what cannot be drawn."""
        logs = self.scaled.gather(-1, ids) - self.kept_mass.log()[:, None]
        if self.reshaped is not None:
            logs = torch.where(self.reshaped[:, None], self.probabilities.gather(-1, ids).log(), logs)
        logs = logs.masked_fill(~self.kept.gather(-1, ids), torch.nan)
        if self.greedy is not None:
            best = ids == self.changed.argmax(-1, keepdim=True)
            logs = torch.where(self.greedy[:, None], torch.where(best, 0.0, torch.nan), logs)
        return logs


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
    if tokens is None:
        tokens = draw(shaped.probabilities, uniform(rows.seeds, rows.positions))
        if shaped.greedy is not None:
            tokens = torch.where(shaped.greedy, shaped.changed.argmax(-1), tokens)
    return tokens, conclude(shaped, rows, tokens)


def shape(logits: Tensor, rows: Rows, masks: Masks | None = None) -> Shaped:
    """Steps 1 to 6 up to the draw."""
    statistics = measure(logits)
    changed, constraint_mass = _change(statistics, rows, masks)
    control = decide(statistics, rows)
    scaled = _scale(changed, control.temperature)
    columns = _filter_columns(control, rows)
    left = _filter(scaled, control, columns, rows)
    logs = log_probabilities(scaled)
    kept = left > -torch.inf
    weights = logs.exp().masked_fill_(~kept, 0.0)
    kept_mass = row_sum(weights)
    probabilities = weights.div_(kept_mass[:, None])
    reshaped = reshape(probabilities, control, rows)
    greedy = control.temperature == 0 if any(group.kind.sometimes_greedy for group in rows.groups) else None
    return Shaped(
        statistics=statistics,
        control=control,
        changed=changed,
        scaled=logs,
        kept=kept,
        kept_mass=kept_mass,
        probabilities=probabilities,
        constraint_mass=constraint_mass,
        top_k=columns["top_k"],
        top_p=columns["top_p"],
        min_p=columns["min_p"],
        greedy=greedy,
        reshaped=reshaped,
    )


def conclude(shaped: Shaped, rows: Rows, tokens: Tensor) -> Report:
    """Report what was drawn, and step 7."""
    statistics = shaped.statistics
    drawn = tokens[:, None]
    p, logs = shaped.probabilities, shaped.scaled
    final_entropy = shaped.kept_mass.log() - row_sum(p * logs)
    if shaped.reshaped is not None:
        final_entropy = torch.where(shaped.reshaped, -row_sum(torch.where(p > 0, p * p.log(), 0.0)), final_entropy)
    columns = InfoColumns(
        statistics=statistics,
        control=shaped.control,
        fault=faults(shaped),
        top_k=shaped.top_k,
        top_p=shaped.top_p,
        min_p=shaped.min_p,
        final_entropy=final_entropy,
        effective=shaped.kept.sum(-1),
        top_token_prob=p.amax(-1),
        scaled_entropy=-row_sum(logs.exp() * logs),
        kept_mass=shaped.kept_mass,
        constraint_mass=shaped.constraint_mass,
        tokens=tokens,
        logprob=_pick(statistics.logits, tokens) - statistics.log_normalizer,
        filtered_logprob=shaped.logprob(drawn)[:, 0],
    )
    if shaped.greedy is not None:
        _report_greedy(columns, shaped.greedy)
    after = torch.where(_pick(shaped.kept, tokens), shaped.kept_mass.log(), 0.0) - _pick(logs, tokens)
    # Of a token that the model rules out (only scoring meets one) no mean would recover.
    surprisal = -columns.logprob.clamp_min(LOWEST_LOG_PROBABILITY)
    outcome = Outcome(statistics.entropy, columns.final_entropy, surprisal, after)
    states = absorb(rows, outcome, columns.fault)
    if rows.repetition is not None:
        rows.repetition.append(tokens[rows.repetition.index])
    rows.positions = rows.positions + 1
    choices = None
    if rows.candidates:
        values, ids = statistics.logits.topk(min(rows.candidates, statistics.vocab_size), -1)
        likely = values - statistics.log_normalizer[:, None]
        choices = torch.stack([ids.double(), likely.double(), shaped.logprob(ids).double()], -1)
    return Report(pack(columns, states, choices), rows.figures, rows.faults)


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


def _pick(columns: Tensor, tokens: Tensor) -> Tensor:
    return columns.gather(-1, tokens[:, None])[:, 0]


def _change(statistics: Statistics, rows: Rows, masks: Masks | None) -> tuple[Tensor, Tensor]:
    """Step 2: (changed logits, the model's own mass that constraints left, NaN without one)."""
    z = statistics.logits
    mass = torch.full_like(statistics.entropy, torch.nan)
    if rows.bias is not None:
        places, values = rows.bias
        z = z.index_put(places, values.to(z.dtype), accumulate=True)
    if rows.repetition is not None:
        index = rows.repetition.index
        z = z.index_copy(0, index, rows.repetition.apply(z[index]))
    if masks is not None and masks.allowed is not None:
        index, allowed = masks.allowed
        mass[index] = row_sum(log_probabilities(statistics.logits[index]).exp() * allowed)
        z = z.index_copy(0, index, z[index].masked_fill(~allowed, -torch.inf))
    if masks is not None and masks.ruled_out is not None:
        z = z.index_put(masks.ruled_out, z.new_tensor(-torch.inf))
    return z, mass


def _scale(z: Tensor, temperature: Tensor) -> Tensor:
    """Step 4, relative to the largest logit so that a low temperature cannot overflow. Greedy rows scale by 1."""
    divisor = torch.where(temperature > 0, temperature.clamp(min=_COLDEST), 1.0).to(z.dtype)
    return (z - z.amax(-1, keepdim=True)) / divisor[:, None]


def _filter_columns(control: Control, rows: Rows) -> Columns:
    """The parameters of the filters in force, `[rows]`: the request's, or what its policy sets in place of them."""
    columns = dict(rows.filters)
    for name, least, most in (("top_k", 1.0, float(LARGEST_VOCABULARY)), ("top_p", 0.0, 1.0), ("min_p", 0.0, 1.0)):
        chosen = getattr(control, name)
        if chosen is not None:
            columns[name] = torch.where(chosen.isnan(), columns[name], chosen.clamp(least, most))
    return columns


def _filter(scaled: Tensor, control: Control, columns: Columns, rows: Rows) -> Tensor:
    """Step 5: the scaled logits with -inf for what is removed."""
    left = scaled
    if control.max_surprisal is not None:
        most = control.max_surprisal.nan_to_num(torch.inf)[:, None]
        left = left.masked_fill(~max_surprisal_kept(left, most), -torch.inf)
    if any(CHAIN[active.place].name == "xtc" for active in rows.active):
        columns = columns | {"dice": uniform(rows.seeds ^ _DICE, rows.positions)}
    for active in rows.active:
        index = active.index
        part = left if index is None else left[index]
        chosen = {name: (c if index is None else c[index])[:, None] for name, c in columns.items()}
        part = part.masked_fill(~CHAIN[active.place].kept(part, chosen, rows.largest_k), -torch.inf)
        left = part if index is None else left.index_copy(0, index, part)
    return left


def faults(shaped: Shaped) -> Tensor:
    """Why each row cannot be drawn: a `Fault`, `[rows]`."""
    nothing = shaped.statistics.failed | ~shaped.kept.any(-1)
    undecided = ~shaped.control.temperature.isfinite()
    return torch.where(nothing, int(Fault.LOGITS), torch.where(undecided, int(Fault.POLICY), int(Fault.NONE)))


def _report_greedy(columns: InfoColumns, greedy: Tensor) -> None:
    """The figures of rows that take the most likely token, in place."""
    columns.final_entropy = columns.final_entropy.masked_fill(greedy, 0.0)
    columns.effective = torch.where(greedy, columns.effective.clamp(max=1), columns.effective)
    columns.top_token_prob = columns.top_token_prob.masked_fill(greedy, 1.0)
    columns.scaled_entropy = columns.scaled_entropy.masked_fill(greedy, torch.nan)
    columns.kept_mass = columns.kept_mass.masked_fill(greedy, torch.nan)
