"""One step of many generations at once: measure, set the temperature, filter, draw, report.

Every row of the batch has its own policy, filters, seed, position and state. Rows are tensors all the way: nothing
here loops over rows, and the result of a row does not depend on its company.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from adaptive.draw import draw, uniform
from adaptive.entropy import Statistics, log_probabilities, measure, row_sum
from adaptive.filters import CANDIDATES, Filters, min_p_floor, top_k_floor, top_p_kept
from adaptive.info import Columns as InfoColumns
from adaptive.info import pack, unpack
from adaptive.parameters import ParameterError
from adaptive.policies import Columns, Control, Fixed, Policy


@dataclass(frozen=True, slots=True)
class RowSettings:
    """How one request wants its tokens drawn. seed: an unsigned 64-bit number. position: of the next token."""

    policy: Policy = Fixed()
    filters: Filters = Filters()
    seed: int = 0
    position: int = 0
    candidates: int = 0


@dataclass(slots=True)
class _Group:
    """The rows that share a kind of policy: where they are, their parameters and their state, `[members]` each."""

    kind: type[Policy]
    rows: list[int]
    index: Tensor
    parameters: Columns
    state: Columns


class Rows:
    """The settings of a batch as columns on the device. Rows join and leave; state and position move with them."""

    def __init__(self, settings: Sequence[RowSettings], device: torch.device | str = "cpu") -> None:
        self.settings = list(settings)
        self.device = torch.device(device)

        def column(values: list, dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=self.device)

        filters = [s.filters for s in self.settings]
        self.seeds = column([s.seed - (1 << 64) if s.seed >= 1 << 63 else s.seed for s in self.settings], torch.int64)
        self.positions = column([s.position for s in self.settings], torch.int64)
        self.top_k = column([f.top_k or 0 for f in filters], torch.int64)
        self.top_p = column([1.0 if f.top_p is None else f.top_p for f in filters], torch.float64)
        self.min_p = column([f.min_p or 0.0 for f in filters], torch.float32)
        # What is known on the host decides which filters run at all: one that nobody uses is absent.
        self.largest_k = max((f.top_k or 0 for f in filters), default=0)
        self.uses_top_p = any(f.top_p is not None and f.top_p < 1.0 for f in filters)
        self.uses_min_p = any(f.min_p for f in filters)
        self.candidates = max((s.candidates for s in self.settings), default=0)
        self.uses_greedy = any(s.policy.name == "greedy" for s in self.settings)
        self.groups = [self._group(kind) for kind in dict.fromkeys(type(s.policy) for s in self.settings)]

    def _group(self, kind: type[Policy]) -> _Group:
        rows = [row for row, s in enumerate(self.settings) if type(s.policy) is kind]
        policies = [self.settings[row].policy for row in rows]
        states = [policy.initial_state() for policy in policies]
        state = {
            name: torch.tensor([s[name] for s in states], dtype=torch.float32, device=self.device) for name in states[0]
        }
        index = torch.tensor(rows, dtype=torch.int64, device=self.device)
        return _Group(kind, rows, index, kind.columns(policies, self.device), state)

    def __len__(self) -> int:
        return len(self.settings)

    def change(self, keep: Sequence[int], join: Sequence[RowSettings] = ()) -> "Rows":
        """The batch that has the rows `keep`, in that order, and after them the new rows `join`."""
        changed = Rows([self.settings[row] for row in keep] + list(join), self.device)
        stay = torch.tensor(keep, dtype=torch.int64, device=self.device)
        changed.positions[: len(keep)] = self.positions[stay]
        old = {group.kind: group for group in self.groups}
        for group in changed.groups:
            before = old.get(group.kind)
            if before is None or not group.state:
                continue
            places = {row: place for place, row in enumerate(before.rows)}
            moved = [(new, places[keep[row]]) for new, row in enumerate(group.rows) if row < len(keep)]
            if moved:
                to, source = torch.tensor(moved, dtype=torch.int64, device=self.device).T
                for name, values in group.state.items():
                    values[to] = before.state[name][source]
        return changed


def step(logits: Tensor, rows: Rows, masked: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Draw one token for every row and advance the rows.

    logits: `[rows, vocab]`, any float dtype, raw. masked: (row, token) indices that may not be drawn now.
    Returns (tokens int64 `[rows]` on the device, report float64 `[rows, columns]` for `adaptive.info.unpack`).

    1. The original statistics, of logits that nothing has touched.
    2. Masks.
    3. The policies map the statistics and their state to temperatures.
    4. Scale.
    5. Filters: top_k, top_p, min_p, each on what the one before it left.
    6. Renormalise, measure, draw.
    7. The policies' states take in what was drawn; every row is one position further.
    """
    statistics = measure(logits)
    z = statistics.logits
    if masked is not None:
        z = z.index_put(masked, z.new_tensor(-torch.inf))
    control = _decide(statistics, rows)
    scaled = _scale(z, control.temperature)
    s = log_probabilities(scaled)
    p = s.exp()
    scaled_entropy = -row_sum(p * s)
    kept = _kept(scaled, rows)
    weights = p if kept is None else p.masked_fill_(~kept, 0.0)
    kept_mass = row_sum(weights)
    q = weights / kept_mass[:, None]
    possible = z > -torch.inf if kept is None else kept
    tokens = draw(weights, uniform(rows.seeds, rows.positions))
    filtered_logprob = _pick(s, tokens) - kept_mass.log()
    info = InfoColumns(
        statistics=statistics,
        control=control,
        rows_top_k=rows.top_k,
        rows_top_p=rows.top_p,
        rows_min_p=rows.min_p,
        final_entropy=kept_mass.log() - row_sum(q * s),
        effective=possible.sum(-1),
        top_token_prob=q.amax(-1),
        scaled_entropy=scaled_entropy,
        kept_mass=kept_mass,
        tokens=tokens,
        filtered_logprob=filtered_logprob,
    )
    if rows.uses_greedy:
        info = _greedy(info, z)
        tokens = info.tokens
    choices = None
    if rows.candidates:
        logit, ids = _most_likely(statistics, rows.candidates)
        log_q = s.gather(-1, ids) - kept_mass.log()[:, None]
        log_q = torch.where(possible.gather(-1, ids), log_q, torch.nan)
        if rows.uses_greedy:
            greedy = control.temperature.isnan()[:, None]
            log_q = torch.where(greedy, torch.where(ids == tokens[:, None], 0.0, torch.nan), log_q)
        choices = torch.stack([ids.double(), logit.double(), log_q.double()], -1)
    report = pack(info, choices)
    for group in rows.groups:
        if group.state:
            # The surprisal under the original distribution; `report` holds it for the host, here it stays a column.
            surprisal = (statistics.log_normalizer - _pick(statistics.logits, tokens))[group.index]
            group.state = group.kind.absorb(group.parameters, group.state, surprisal, info.final_entropy[group.index])
    rows.positions += 1
    return tokens, report


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
    info, _ = unpack(step(logits[None], rows)[1])[0]
    if info.failed:
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


def _most_likely(statistics: Statistics, count: int) -> tuple[Tensor, Tensor]:
    """(log probabilities, ids) of the `count` most likely tokens of step 1, each `[rows, count]`."""
    values, ids = statistics.logits.topk(min(count, statistics.logits.shape[-1]), -1)
    return values - statistics.log_normalizer[:, None], ids


def _pick(columns: Tensor, tokens: Tensor) -> Tensor:
    return columns.gather(-1, tokens[:, None])[:, 0]


def _decide(statistics: Statistics, rows: Rows) -> Control:
    """Step 3: every kind of policy decides for its rows. What a policy has no notion of is NaN."""
    if len(rows.groups) == 1:
        group = rows.groups[0]
        return group.kind.control(statistics, group.parameters, group.state)
    absent = torch.full_like(statistics.entropy, torch.nan)
    whole = Control(absent.clone(), absent.clone(), absent.clone())
    for group in rows.groups:
        part = group.kind.control(statistics.select(group.index), group.parameters, group.state)
        for name in ("temperature", "saturated", "infeasible"):
            values = getattr(part, name)
            if values is not None:
                getattr(whole, name)[group.index] = values.to(absent.dtype)
    return whole


def _scale(z: Tensor, temperature: Tensor) -> Tensor:
    """Step 4, relative to the largest logit so that a low temperature cannot overflow. NaN (greedy) scales by 1."""
    return (z - z.amax(-1, keepdim=True)) / temperature.nan_to_num(1.0).to(z.dtype)[:, None]


def _kept(scaled: Tensor, rows: Rows) -> Tensor | None:
    """Step 5: which tokens stay, bool `[rows, vocab]`; None if nobody filters."""
    kept = None
    if rows.largest_k:
        count = min(rows.largest_k, scaled.shape[-1])
        floor = top_k_floor(scaled.topk(count, -1).values, rows.top_k.clamp(min=1)[:, None])
        kept = (scaled >= floor) | (rows.top_k == 0)[:, None]
        scaled = scaled.masked_fill(~kept, -torch.inf)
    if rows.uses_top_p:
        nucleus = top_p_kept(scaled, rows.top_p[:, None], CANDIDATES)
        kept = nucleus if kept is None else kept & nucleus
    if rows.uses_min_p:
        likely = scaled >= min_p_floor(rows.min_p[:, None])
        kept = likely if kept is None else kept & likely
    return None if kept is None else kept & (scaled > -torch.inf)


def _greedy(info: InfoColumns, z: Tensor) -> InfoColumns:
    """Put the most likely token into the rows whose temperature is NaN."""
    greedy = info.control.temperature.isnan()
    return replace(
        info,
        tokens=torch.where(greedy, z.argmax(-1), info.tokens),
        final_entropy=info.final_entropy.masked_fill(greedy, 0.0),
        effective=torch.where(greedy, info.effective.clamp(max=1), info.effective),
        top_token_prob=info.top_token_prob.masked_fill(greedy, 1.0),
        scaled_entropy=info.scaled_entropy.masked_fill(greedy, torch.nan),
        kept_mass=info.kept_mass.masked_fill(greedy, torch.nan),
        filtered_logprob=info.filtered_logprob.masked_fill(greedy, 0.0),
    )
