"""Arms take turns at a case."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from benchmarks.arm import Arm
from benchmarks.cases import Case, Figures, figures

OURS = "ours"


class Entry(NamedTuple):
    """An arm under one setting."""

    arm: str
    setting: str


Turns = dict[Entry, list[Figures]]
Steps = dict[Entry, list[dict[str, float]]]


def entries(case: Case, arms: Iterable[str], adaptive: Iterable[str]) -> Iterator[Entry]:
    """What is timed in a case. adaptive: the arms that have target_entropy."""
    for arm in arms:
        yield Entry(arm, "fixed" if case.sampled else "greedy")
    if case.sampled:
        for arm in adaptive:
            yield Entry(arm, "target")


def compete(case: Case, arms: Mapping[str, Arm], adaptive: Iterable[str], turns: int) -> tuple[Turns, Steps]:
    """Figures of every turn, and what steps were made of where an arm tells. The turn before the first warms up."""
    figured: Turns = {entry: [] for entry in entries(case, arms, adaptive)}
    steps: Steps = {}
    for turn in range(turns + 1):
        for entry, kept in figured.items():
            outcome, peak = arms[entry.arm].run(case.job(turn, entry.setting))
            if turn:
                kept.append(figures(outcome, peak))
                if outcome.step:
                    steps.setdefault(entry, []).append(outcome.step)
    return figured, steps
