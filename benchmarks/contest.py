"""Arms take turns at a case; a table of what came of it."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from benchmarks.arm import Arm
from benchmarks.cases import Case, Figures, figures
from benchmarks.machine import ratio, spread
from benchmarks.worker import TARGET, TEMPERATURE, TOP_P

HEAD = (
    "model", "type", "streams", "prompt", "decoding", "arm", "tokens/s", "first token ms", "gap p50 ms", "gap p99 ms",
    "peak MiB", "ours / it",
)  # fmt: skip
OURS = "ours"
_DECODING = {
    "greedy": "greedy",
    "fixed": f"T {TEMPERATURE}, top_p {TOP_P}",
    "target": f"target_entropy {TARGET}, top_p {TOP_P}",
}


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


def lines(case: Case, figured: Turns) -> Iterator[list[str]]:
    """Lines of the table. Who has no target_entropy is compared with ours by its own fixed run."""
    for entry, turns in figured.items():
        columns = [spread(values) for values in zip(*turns, strict=True)]
        rates = [turn.rate for turn in turns]
        against = (
            []
            if entry.arm == OURS
            else [
                ratio([turn.rate for turn in figured[mine]], rates)
                for mine in figured
                if mine.arm == OURS and (entry.setting == mine.setting or _alone(entry, figured))
            ]
        )
        yield [
            case.model, case.dtype, str(case.streams), f"{case.prompt:,}", _DECODING[entry.setting], entry.arm,
            *columns[:4], f"{max(turn.peak for turn in turns):.0f}", "; with target_entropy ".join(against),
        ]  # fmt: skip


def _alone(entry: Entry, figured: Turns) -> bool:
    return not any(other.arm == entry.arm and other != entry for other in figured)


def step_lines(case: Case, steps: Steps) -> Iterator[list[str]]:
    """What a step is made of: milliseconds, and shares in percent."""
    for entry, turns in steps.items():
        whole = [turn["step"] for turn in turns]
        shares = [
            spread([100 * turn[part] / turn["step"] for turn in turns]) for part in ("forward", "sampler", "host")
        ]
        yield [
            case.model,
            case.dtype,
            str(case.streams),
            f"{case.prompt:,}",
            _DECODING[entry.setting],
            spread(whole),
            *shares,
        ]


STEP_HEAD = (*HEAD[:5], "step ms", "forward %", "sampler %", "host %")
