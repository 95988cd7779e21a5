"""Writes the tables of docs/policies.md from the declarations in `adaptive`: `python docs/write_tables.py`.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; what is there is replaced.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from adaptive import POLICIES, PRESETS, Filters, Penalties
from adaptive.filters import CHAIN
from adaptive.parameters import Declared, Parameter
from adaptive.signals import KINDS, SIGNAL_PRESETS

PAGE = Path(__file__).parent / "policies.md"
_BLOCK = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def written(page: str) -> str:
    """The page with every table as the code has it now. KeyError for a table that there is not."""
    return _BLOCK.sub(lambda found: found[1] + "\n".join(_table(found[2])) + "\n" + found[3], page)


def _table(name: str) -> Iterable[str]:
    kind, _, policy = name.partition(" of ")
    if kind == "parameters":
        return _parameters(POLICIES[policy].parameters())
    if kind == "penalties":
        return _parameters(Penalties.parameters())
    if kind == "state":
        rows = [(f"`{value.name}`", value.unit or "–", value.help) for value in POLICIES[policy].state]
        return _rows(("state", "unit", "what it is"), rows)
    return {"presets": _presets, "filters": _filters, "signals": _signals}[kind]()


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(head), "|" + "---|" * len(head), *map(line, rows)]


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower() if value is not None else "unset"


def _parameters(parameters: Iterable[Parameter]) -> list[str]:
    rows = [
        (f"`{p.name}`", _number(p.default), p.unit or "–", p.allowed.removeprefix("must be "), p.help)
        for p in parameters
    ]
    return _rows(("parameter", "default", "unit", "allowed", "what it does"), rows)


def _presets() -> list[str]:
    rows = [
        (f"`{name}`", _built(preset.policy, preset.policy.name), _built(preset.filters), preset.summary)
        for name, preset in PRESETS.items()
    ]
    return _rows(("preset", "policy", "filters", "where it comes from"), rows)


def _built(declared: Declared, name: str = "") -> str:
    """What is not as by default, as it would be written; a dash for nothing."""
    given = [
        f"{p.name}={_number(getattr(declared, p.name))}"
        for p in declared.parameters()
        if getattr(declared, p.name) != p.default
    ]
    return f"`{name}({', '.join(given)})`" if name else f"`{', '.join(given)}`" if given else "–"


def _filters() -> list[str]:
    """Parameters, in the order of the chain; those that go with a filter right behind it."""
    place = {filter.name: number for number, filter in enumerate(CHAIN)}

    def order(parameter: Parameter) -> int:
        return max(number for name, number in place.items() if parameter.name.startswith(name))

    return _parameters(sorted(Filters.parameters(), key=order))


def _signals() -> list[str]:
    strict = {rule.kind: rule for rule in SIGNAL_PRESETS["strict"]}
    rows = [
        [f"`{kind}`", *map(_number, (*defaults, strict[kind].threshold, strict[kind].window))]
        for kind, defaults in KINDS.items()
    ]
    return _rows(("kind", "threshold", "window", "threshold of `strict`", "its window"), rows)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
