"""Runs on a terminal: text coloured by entropy, tables of steps, summaries. Plain where there is no terminal."""

import math
from collections.abc import Sequence

from rich import box
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from thermostat.run import Run
from thermostat.v1 import model_pb2

# Upper ends in nats, and the colour below them: sure is cool, unsure is hot.
SCALE = (
    (0.25, "rgb(90,140,255)"),
    (0.75, "rgb(70,200,235)"),
    (1.5, "rgb(80,210,120)"),
    (2.5, "rgb(225,215,80)"),
    (4.0, "rgb(255,150,60)"),
    (math.inf, "rgb(255,80,80)"),
)
_NARROWEST_COLUMN = 36


def colour(entropy: float | None) -> str:
    """The colour of an entropy in nats."""
    if entropy is None:
        return "default"
    return next(name for end, name in SCALE if entropy < end)


def legend() -> Text:
    """The colours and what they mean."""
    text = Text("original entropy, nats: ")
    low = 0.0
    for end, name in SCALE:
        words = f"{low:g}-{end:g}" if end < math.inf else f"over {low:g}"
        text.append(f" {words} ", style=f"black on {name}")
        low = end
    return text


def coloured(run: Run, prompt: str = "") -> Text:
    """The text of a run, each piece in the colour of its entropy."""
    text = Text(prompt, style="bold")
    for piece in run.pieces:
        text.append(piece.text, style=f"not bold {colour(piece.entropy)}")
    return text


def beside(runs: Sequence[Run], prompt: str, width: int) -> RenderableType:
    """Runs side by side if the terminal is wide enough, else one below the other."""
    panels = [Panel(coloured(run, prompt), title=run.label, title_align="left") for run in runs]
    if width // max(len(runs), 1) < _NARROWEST_COLUMN:
        return Group(*panels)
    grid = Table.grid(expand=True)
    for _ in runs:
        grid.add_column(ratio=1)
    grid.add_row(*panels)
    return grid


def _table(title: str | None, *columns: str, left: Sequence[str] = ()) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right", no_wrap=column not in left)
    return table


def _figure(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def steps(run: Run) -> Table:
    """A table of the steps: what the model knew, what the policy did, what was drawn."""
    table = _table(
        f"steps of {run.label}",
        "step", "token", "entropy", "final", "change", "T", "kept", "top p", "rank", "logprob", "",
        left=("token", ""),
    )  # fmt: skip
    for token in run.tokens:
        info = token.sampling_info

        def of(name: str, info: object = info) -> float | None:
            return getattr(info, name) if info.HasField(name) else None  # type: ignore[attr-defined]

        flags = [name for name in ("saturated", "infeasible") if of(name)]
        hot = colour(of("original_entropy"))
        table.add_row(
            str(token.index),
            Text(repr(token.token_bytes.decode(errors="replace")), style=hot, overflow="ellipsis", no_wrap=True),
            Text(_figure(of("original_entropy")), style=hot),
            _figure(of("final_entropy")),
            _figure(of("entropy_change")),
            _figure(of("temperature")),
            str(info.effective_vocab_size) if info.HasField("effective_vocab_size") else "-",
            _figure(of("top_token_prob")),
            str(token.rank),
            _figure(token.logprob),
            " ".join(flags),
        )
    return table


def comparison(runs: Sequence[Run]) -> Table:
    """Runs in figures, one row each: means over the steps."""
    table = _table(
        "comparison",
        "policy", "tokens", "entropy", "final", "change", "T", "T range", "perplexity", "distinct", "tokens/s", "end",
        left=("policy", "end"),
    )  # fmt: skip
    for run in runs:
        temperatures = run.values("temperature")
        spread = f"{min(temperatures):.2f}-{max(temperatures):.2f}" if temperatures else "-"
        surprisal = run.mean_surprisal
        table.add_row(
            run.label,
            str(len(run.tokens)),
            _figure(run.mean("original_entropy")),
            _figure(run.mean("final_entropy")),
            _figure(run.mean("entropy_change")),
            _figure(run.mean("temperature")),
            spread,
            "-" if surprisal is None else f"{math.exp(min(surprisal, 700.0)):.2f}",
            f"{run.distinct_share:.0%}",
            f"{run.tokens_per_second:.0f}",
            run.reason,
        )
    return table


def summary(run: Run) -> str:
    """A run in one line."""
    entropies = run.values("original_entropy")
    parts = [f"{run.reason} after {len(run.tokens)} tokens", f"{run.tokens_per_second:.0f} tokens/s"]
    if entropies:
        mean = sum(entropies) / len(entropies)
        parts.append(f"entropy {mean:.2f} nats ({min(entropies):.2f}-{max(entropies):.2f})")
    if (temperature := run.mean("temperature")) is not None:
        parts.append(f"temperature {temperature:.2f}")
    if (surprisal := run.mean_surprisal) is not None:
        parts.append(f"perplexity {math.exp(min(surprisal, 700.0)):.2f}")
    if run.started is not None:
        parts.append(f"seed {run.started.seed}")
    return " · ".join(parts)


def policies(descriptions: Sequence[model_pb2.PolicyDescription]) -> RenderableType:
    """Every policy with its parameters."""
    parts: list[RenderableType] = []
    for policy in descriptions:
        parts.append(Text.assemble((policy.name, "bold"), "  ", policy.summary))
        if not policy.parameters:
            parts.append(Text())
            continue
        table = _table(
            None, "parameter", "default", "range", "unit", "what it does", left=("parameter", "what it does", "unit")
        )
        for parameter in policy.parameters:
            choice = parameter.WhichOneof("default_value") == "choice"
            default = parameter.choice if choice else f"{parameter.number:g}"
            table.add_row(parameter.name, default, _range(parameter), parameter.unit, parameter.help)
        parts.append(table)
    return Group(*parts)


def _range(parameter: model_pb2.ParameterDescription) -> str:
    if parameter.choices:
        return ", ".join(parameter.choices)
    low, high = parameter.HasField("minimum"), parameter.HasField("maximum")
    words = [f"{'>' if parameter.minimum_excluded else '>='} {parameter.minimum:g}"] if low else []
    words += [f"<= {parameter.maximum:g}"] if high else []
    return ", ".join(words)


def model(description: model_pb2.Model) -> Columns | Table:
    """The served model as a table."""
    table = _table(None, "property", "value", left=("property", "value"))
    for field in description.DESCRIPTOR.fields:
        value = getattr(description, field.name)
        number = isinstance(value, int) and not isinstance(value, bool)
        table.add_row(field.name, f"{value:,}" if number else str(value))
    return table


def console(stderr: bool = False) -> Console:
    """The terminal; without one, plain text as wide as it needs to be."""
    made = Console(stderr=stderr, highlight=False, soft_wrap=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, no_color=True, width=140)
