"""Calls into policies: to decide, to reshape, to absorb.

A policy may be a stranger's. One that raises, or gives something else than it should, fails in its own row alone: the
calls are made for all rows of a kind at once, and row by row only after one has raised.
"""

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from adaptive.entropy import Statistics, row_sum
from adaptive.info import Fault
from adaptive.policies import Columns, Control, Outcome
from adaptive.rows import Group, Rows


def decide(statistics: Statistics, rows: Rows) -> Control:
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
    """The decision of one kind."""
    try:
        if group.kind.sound:
            return group.kind.control(statistics, group.parameters, group.state)
        control = _checked_control(group, statistics)
    except Exception:
        control = _control_one_by_one(group, statistics, rows)
    t = control.temperature
    control.temperature = torch.where(t >= 0 if group.kind.sometimes_greedy else t > 0, t, torch.nan)
    return control


def _checked_control(group: Group, statistics: Statistics) -> Control:
    control = group.kind.control(statistics, group.parameters, group.state)
    columns = {field.name: getattr(control, field.name) for field in fields(Control)}
    present = {name: column for name, column in columns.items() if column is not None}
    _check_columns(group, **{"temperature": None} | present)
    return control


def _check_columns(group: Group, **columns: Any) -> None:
    for name, column in columns.items():
        if not isinstance(column, Tensor) or column.shape != group.index.shape or column.is_complex():
            raise TypeError(f"{name} must be a tensor of real numbers of shape {list(group.index.shape)}")


def _control_one_by_one(group: Group, statistics: Statistics, rows: Rows) -> Control:
    absent = torch.full((1,), torch.nan, dtype=torch.float64, device=group.index.device)
    parts = []
    for member in range(len(group.rows)):
        alone, one = _alone(group, member)
        try:
            parts.append(_checked_control(alone, statistics.select(one)))
        except Exception as fault:
            _note(rows, alone, fault)
            parts.append(Control(absent))
    columns = {}
    for field in fields(Control):
        values = [getattr(part, field.name) for part in parts]
        if any(value is not None for value in values):
            columns[field.name] = torch.cat([absent if value is None else value.double() for value in values])
    return Control(**columns)


def _alone(group: Group, member: int) -> tuple[Group, Tensor]:
    """One row of a group as a group of its own, and its place in the other, int64 `[1]`."""
    one = torch.tensor([member], device=group.index.device)
    parameters, state = _select(group.parameters, one), _select(group.state, one)
    return Group(group.kind, [group.rows[member]], group.index[one], parameters, state), one


def _note(rows: Rows, alone: Group, fault: Exception) -> None:
    rows.faults[alone.rows[0]] = f"{type(fault).__name__}: {fault}"[:200]


def _select(columns: Columns, index: Tensor) -> Columns:
    return {name: column[index] for name, column in columns.items()}


def reshape(weights: Tensor, index: Tensor | None, control: Control, rows: Rows) -> Tensor:
    """Let the policies that reshape do so, in place; which rows `[rows]` that are. A row that is left with no
    distribution over its own tokens loses its temperature, which is its policy's fault.

    weights: of rows `index` (None: all), theirs among them, `[n, vocab]`, in proportion to what they draw from.
    """
    reshaped, unsound = (torch.zeros_like(rows.seeds, dtype=torch.bool) for _ in range(2))
    for group in rows.groups:
        if not group.kind.reshapes():
            continue
        reshaped[group.index] = True
        places = group.index if index is None else torch.searchsorted(index, group.index)
        before = weights[places]
        before = before / row_sum(before)[:, None]
        try:
            part = _reshaped(group, before)
        except Exception:
            part = _reshape_one_by_one(group, before, rows)
        sound = ((row_sum(part) - 1.0).abs() < 1e-3) & (part >= 0).all(-1)
        weights[places] = torch.where(sound[:, None], part, before)
        unsound[group.index] = ~sound
    control.temperature = control.temperature.masked_fill(unsound, torch.nan)
    return reshaped


def _reshaped(group: Group, before: Tensor) -> Tensor:
    part = group.kind.reshape(before, group.parameters, group.state)
    if not isinstance(part, Tensor) or part.shape != before.shape:
        raise TypeError(f"reshape must give a tensor of shape {list(before.shape)}")
    return part.to(before.dtype).masked_fill(before == 0, 0.0)


def _reshape_one_by_one(group: Group, before: Tensor, rows: Rows) -> Tensor:
    parts = []
    for member in range(len(group.rows)):
        alone, one = _alone(group, member)
        try:
            parts.append(_reshaped(alone, before[one]))
        except Exception as fault:
            _note(rows, alone, fault)
            parts.append(torch.full_like(before[one], torch.nan))
    return torch.cat(parts)


def absorb(rows: Rows, outcome: Outcome, fault: Tensor) -> Tensor:
    """Step 7: the states `[rows, most figures]` after the draw, NaN where a policy has fewer. Faults are noted."""
    width = max((len(group.kind.state) for group in rows.groups), default=0)
    states = torch.full((len(rows), width), torch.nan, dtype=torch.float64, device=fault.device)
    for group in rows.groups:
        if not group.state:
            continue
        part = Outcome(*(getattr(outcome, field.name)[group.index].double() for field in fields(Outcome)))
        try:
            group.state = _renewed(group, part)
        except Exception:
            _absorb_one_by_one(group, part, rows, fault)
        for place, value in enumerate(group.kind.state):
            states[group.index, place] = group.state[value.name]
    return states


def _renewed(group: Group, outcome: Outcome) -> Columns:
    state = group.kind.absorb(group.parameters, group.state, outcome)
    _check_columns(group, **{value.name: state[value.name] for value in group.kind.state})
    return {value.name: state[value.name].double() for value in group.kind.state}


def _absorb_one_by_one(group: Group, outcome: Outcome, rows: Rows, fault: Tensor) -> None:
    for member in range(len(group.rows)):
        alone, one = _alone(group, member)
        part = Outcome(*(getattr(outcome, field.name)[one] for field in fields(Outcome)))
        try:
            for name, column in _renewed(alone, part).items():
                group.state[name] = group.state[name].index_copy(0, one, column)
        except Exception as raised:
            _note(rows, alone, raised)
            fault[alone.index] = int(Fault.POLICY)
