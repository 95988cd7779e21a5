"""The batch as columns on the device: every row has its own policy, filters, penalties, seed, position and state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from adaptive.candidates import COUNT
from adaptive.dice import Dice
from adaptive.filters import CHAIN, FIRST_LEADING, LAST_LEADING, Filters
from adaptive.info import shown
from adaptive.kept import min_p_floor
from adaptive.penalties import History, Penalties, Repetition
from adaptive.policies import Columns, Fixed, Greedy, Policy
from adaptive.policies.base import LARGEST_INVERSE

_NOTHING = History()
_SET_BY_POLICY = ("top_k", "top_p", "min_p")


@dataclass(frozen=True, slots=True)
class RowSettings:
    """How one request wants its tokens drawn.

    seed: an unsigned 64-bit number. position: of the next token. state: of the policy, if it is not at its beginning.
    bias: added to logits by token id. history: the tokens so far, for penalties.
    """

    policy: Policy = Fixed()
    filters: Filters = Filters()
    seed: int = 0
    position: int = 0
    candidates: int = 0
    state: Mapping[str, float] | None = None
    penalties: Penalties = Penalties()
    bias: Mapping[int, float] = field(default_factory=dict)
    history: History = _NOTHING


@dataclass(slots=True)
class Group:
    """The rows that share a kind of policy: where they are, their parameters and their state, `[members]` each."""

    kind: type[Policy]
    rows: list[int]
    index: Tensor
    parameters: Columns
    state: Columns


@dataclass(frozen=True, slots=True)
class ActiveFilter:
    """A filter of the chain that some rows use: its place in the chain, and those rows; None means all. used: bool
    `[rows]`, who they are."""

    place: int
    index: Tensor | None
    used: Tensor

    def among(self, some: Tensor | slice | None) -> Tensor | None:
        """Which of some rows (None: of all) use it: their places there. None means all of them. On a GPU it waits for
        the device: only rows that no kernel serves ask it, beside rows with other filters."""
        if some is None or self.index is None:
            return self.index
        return self.used[some].nonzero()[:, 0]


class Rows:
    """The settings of a batch as columns on the device. Rows join and leave; state and position move with them.

    faults: why a row's policy failed in the last step, by row. figures: how many figures each row's state has.
    """

    def __init__(self, settings: Sequence[RowSettings], device: torch.device | str = "cpu") -> None:
        self.settings = list(settings)
        self.device = torch.device(device)
        self.faults: dict[int, str] = {}
        self.seeds = self._column([s.seed - (1 << 64) if s.seed >= 1 << 63 else s.seed for s in self.settings])
        self.dice = Dice(self.seeds, self._column([s.position for s in self.settings]))
        # What is known on the host decides what runs at all: a filter that nobody uses is absent.
        self.figures = [len(s.policy.state) for s in self.settings]
        self.candidates = max((s.candidates for s in self.settings), default=0)
        self.groups = [self._group(kind) for kind in dict.fromkeys(type(s.policy) for s in self.settings)]
        self._read_filters()
        self.bias = self._bias()
        self.repetition = self._repetition()

    def _column(self, values: Sequence[float], dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=self.device)

    def _group(self, kind: type[Policy]) -> Group:
        rows = [row for row, s in enumerate(self.settings) if type(s.policy) is kind]
        policies = [self.settings[row].policy for row in rows]
        states = [self.settings[row].state or self.settings[row].policy.initial_state() for row in rows]
        state = {value.name: self._column([s[value.name] for s in states], torch.float64) for value in kind.state}
        return Group(kind, rows, self._column(rows), kind.columns(policies, self.device), state)

    def _read_filters(self) -> None:
        """Columns of the filters' parameters `[rows]`, NaN where unset, and which filters are in use by whom."""
        filters = [s.filters for s in self.settings]

        def value(f: Filters, name: str) -> float:
            given = getattr(f, name)
            return float("nan") if given is None else float(given)

        names = [parameter.name for parameter in Filters.parameters() if not parameter.choices]
        self.filters = {name: self._column([value(f, name) for f in filters], torch.float64) for name in names}
        setting = {row for group in self.groups if group.kind.sets_filters for row in group.rows}
        self.active: list[ActiveFilter] = []
        users: dict[int, set[int]] = {}
        for place, one in enumerate(CHAIN):
            by_policy = setting if one.name in _SET_BY_POLICY else set()
            rows = [row for row, f in enumerate(filters) if one.on(f) or row in by_policy]
            if rows:
                users[place] = set(rows)
                index = None if len(rows) == len(filters) else self._column(rows)
                used = self._column([row in users[place] for row in range(len(filters))], torch.bool)
                self.active.append(ActiveFilter(place, index, used))
        by_policies = [self.settings[row].policy.largest_top_k for row in setting]
        self.largest_k = max([f.top_k or 1 for f in filters] + by_policies, default=1)
        self._choose_ways(users)

    def _choose_ways(self, users: dict[int, set[int]]) -> None:
        """Which rows first look at the most likely tokens alone (`adaptive.pool`), and which need not try.

        users: the rows that use a filter, by its place.
        """
        early = {row for place, rows in users.items() if place < FIRST_LEADING for row in rows}
        leading = {row for place, rows in users.items() if FIRST_LEADING <= place <= LAST_LEADING for row in rows}
        leading |= {row for g in self.groups if g.kind.drops or g.kind.sometimes_greedy for row in g.rows}
        early |= {row for g in self.groups if g.kind.reshapes() for row in g.rows}
        quick = sorted(leading - early) if self.device.type == "cpu" else []
        self.quick = quick
        self.flat = False  # whether the last step could tell of no row; a hint that saves work and changes no result
        self.slow = sorted({*range(len(self.settings))} - {*quick})
        self.quick_index = None if not self.slow else self._column(quick)
        # Kernels know the filters that keep the most likely tokens; rows that use another go the plain way.
        later = {row for place, rows in users.items() if place > LAST_LEADING for row in rows}
        self.fused = len(early | later) < len(self.settings)
        self.unfused = self._column(sorted(early | later)) if early | later else None
        self.uses_top_p = any(CHAIN[one.place].name == "top_p" for one in self.active)
        # Of these the moments after temperature, 1 where greedy, are those before it.
        self.plain = all(s.policy in (Fixed(1.0), Greedy()) for s in self.settings)
        self.edges = find_edges(self.filters, self)
        self.shown = shown(self.filters)
        # What is known of a row's temperature before anything is measured.
        known = [isinstance(s.policy, Fixed) for s in self.settings]
        inverses = [
            min(1 / s.policy.temperature, LARGEST_INVERSE) if isinstance(s.policy, Fixed) else float("nan")
            for s in self.settings
        ]
        self.ahead = self._column(inverses, torch.float64) if any(known) else None
        self.absent = torch.full((len(self.settings),), torch.nan, dtype=torch.float64, device=self.device)
        self.seeks = any(group.kind.seeks for group in self.groups)

    def _bias(self) -> tuple[tuple[Tensor, Tensor], Tensor] | None:
        """((row, token) indices, what is added there); None if nobody has a bias."""
        triples = [(row, token, value) for row, s in enumerate(self.settings) for token, value in s.bias.items()]
        if not triples:
            return None
        rows, tokens, values = zip(*triples, strict=True)
        return (self._column(rows), self._column(tokens)), self._column(values, torch.float32)

    def _repetition(self) -> Repetition | None:
        rows = [row for row, s in enumerate(self.settings) if s.penalties.active]
        if not rows:
            return None
        chosen = [self.settings[row] for row in rows]
        return Repetition(rows, [s.penalties for s in chosen], [s.history for s in chosen], self.device)

    def __len__(self) -> int:
        return len(self.settings)

    @property
    def positions(self) -> Tensor:
        """Position of each row's next token, int64 `[rows]`."""
        return self.dice.positions

    def change(
        self,
        keep: Sequence[int],
        join: Sequence[RowSettings] = (),
        anew: Mapping[int, RowSettings] | None = None,
    ) -> "Rows":
        """The batch that has the rows `keep`, in that order, and after them the new rows `join`.

        anew: rows of `keep`, by their present number, that go on under other settings, their state among them; only
        their position and history stay.
        """
        anew = anew or {}
        settings = [anew.get(row, self.settings[row]) for row in keep]
        changed = Rows([*settings, *join], self.device)
        stay = torch.tensor(keep, dtype=torch.int64, device=self.device)
        positions = changed.dice.positions
        positions[: len(keep)] = self.dice.positions[stay]
        changed.dice = Dice(changed.seeds, positions)
        old = {group.kind: group for group in self.groups}
        for group in changed.groups:
            before = old.get(group.kind)
            if before is not None and group.state:
                pairs = _moves(group.rows, [row for row in keep if row not in anew], keep, before.rows)
                if pairs:
                    to, source = torch.tensor(pairs, dtype=torch.int64, device=self.device).T
                    for name, values in group.state.items():
                        values[to] = before.state[name][source]
        if changed.repetition is not None and self.repetition is not None:
            pairs = _moves(changed.repetition.rows, keep, keep, self.repetition.rows)
            if pairs:
                changed.repetition.copy_from(self.repetition, pairs)
        return changed


class Edges(NamedTuple):
    """Where the filters that keep the most likely tokens end, `[rows, 1]` of the rows that look at candidates first.

    last: which candidate top_k keeps last. mass: probability of what is left where all candidates are left; infinite
    if it is not known. share: the share of it that top_p keeps; infinite for all. lowest: what min_p keeps of logits
    less their maximum.
    """

    last: Tensor
    mass: Tensor
    share: Tensor
    lowest: Tensor


def find_edges(columns: Columns, rows: Rows) -> Edges:
    """From the filters' parameters in force."""
    if rows.quick_index is not None:
        columns = {name: columns[name][rows.quick_index] for name in ("top_k", "top_p", "min_p")}
    k, p, low = (columns[name][:, None] for name in ("top_k", "top_p", "min_p"))
    return Edges(
        last=k.nan_to_num(float(COUNT)).clamp(1.0, float(COUNT)).long() - 1,
        mass=torch.where(k.isnan(), torch.ones_like(k), torch.inf),
        share=torch.where(p < 1.0, p, torch.inf),
        lowest=min_p_floor(low.nan_to_num(0.0)),
    )


def _moves(new: list[int], staying: Sequence[int], keep: Sequence[int], old: list[int]) -> list[tuple[int, int]]:
    """(place among `new`, place among `old`) of the members that were members before. new, old: row numbers after
    and before the change, which row `keep[i]` became row i in."""
    places, stays = {row: place for place, row in enumerate(old)}, set(staying)
    return [
        (place, places[keep[row]])
        for place, row in enumerate(new)
        if row < len(keep) and keep[row] in stays and keep[row] in places
    ]
