"""What is written of a contest: ratios, figures of every arm, what steps of ours are made of."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.cases import Case, Figures
from benchmarks.contest import OURS, Entry, Steps, Turns
from benchmarks.machine import ratio, spread, table
from benchmarks.worker import TARGET, TEMPERATURE, TOP_P

_DECODING = {
    "greedy": "greedy",
    "fixed": f"T {TEMPERATURE}, top_p {TOP_P}",
    "target": f"target_entropy {TARGET}, top_p {TOP_P}",
}
_CELL = ("model", "type", "streams", "prompt", "decoding")
_FIGURES = ("arm", "tokens/s", "first token ms", "gap p50 ms", "gap p99 ms", "peak MiB")
_PARTS = ("forward", "sampler", "host")


class Report:
    """Grows by a case at a time, and is written each time, so that what was measured is kept. arms: the others."""

    def __init__(self, out: Path, head: str, arms: Sequence[str]) -> None:
        self.notes: list[str] = []
        self._out = out
        self._head = head
        self._arms = arms
        self._ratios: list[list[str]] = []
        self._figures: list[list[str]] = []
        self._steps: list[list[str]] = []

    def add(self, case: Case, figured: Turns, steps: Steps) -> None:
        """Take in a case, show it and write the file."""
        self._ratios.extend(ratio_lines(case, figured, self._arms))
        self._figures.extend(lines(case, figured))
        self._steps.extend(step_lines(case, steps))
        print(*table((*_CELL, *_FIGURES), self._figures[-len(figured) :]), sep="\n", flush=True)
        self._out.parent.mkdir(parents=True, exist_ok=True)
        self._out.write_text("\n".join(self._text()) + "\n")

    def _text(self) -> Iterator[str]:
        yield from (self._head, "", "Tokens a second of ours, prompts included, by those of the others:", "")
        yield from table((*_CELL, *(f"ours / {arm}" for arm in self._arms)), self._ratios)
        yield from ("", *self._notes_apart(), *table((*_CELL, *_FIGURES), self._figures))
        yield from ("", "A step of ours:", "")
        yield from table((*_CELL, "step ms", *(f"{part} %" for part in _PARTS)), self._steps)

    def _notes_apart(self) -> list[str]:
        return [*self.notes, ""] if self.notes else []


def cell(case: Case, setting: str) -> list[str]:
    """The first columns of a line."""
    return [case.model, case.dtype, str(case.streams), f"{case.prompt:,}", _DECODING[setting]]


def lines(case: Case, figured: Turns) -> Iterator[list[str]]:
    """Figures of every arm."""
    for entry, turns in figured.items():
        columns = [spread(values) for values in list(zip(*turns, strict=True))[:4]]
        yield [*cell(case, entry.setting), entry.arm, *columns, f"{max(turn.peak for turn in turns):.0f}"]


def ratio_lines(case: Case, figured: Turns, arms: Sequence[str]) -> Iterator[list[str]]:
    """Tokens a second of ours by those of each other arm. Who has no target_entropy is taken by its fixed run."""
    for entry, turns in figured.items():
        if entry.arm == OURS:
            theirs = (figured.get(Entry(arm, entry.setting)) or figured.get(Entry(arm, "fixed")) for arm in arms)
            yield [*cell(case, entry.setting), *(_against(turns, other) if other else "absent" for other in theirs)]


def _against(ones: list[Figures], others: list[Figures]) -> str:
    return ratio([turn.rate for turn in ones], [turn.rate for turn in others])


def step_lines(case: Case, steps: Steps) -> Iterator[list[str]]:
    """What a step is made of: milliseconds, and shares in percent."""
    for entry, turns in steps.items():
        shares = [spread([100 * turn[part] / turn["step"] for turn in turns]) for part in _PARTS]
        yield [*cell(case, entry.setting), spread([turn["step"] for turn in turns]), *shares]
