"""Runs on a terminal: text coloured by entropy, tables of steps, summaries. Plain where there is no terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from thermostat.run import Run
from thermostat.v1 import generation_pb2, model_pb2
from thermostat.words import format_policy

# Upper ends in nats, and the colour below them: sure is cool, unsure is hot.
SCALE = (
    (0.25, "rgb(90,140,255)"),
    (0.75, "rgb(70,200,235)"),
    (1.5, "rgb(80,210,120)"),
    (2.5, "rgb(225,215,80)"),
    (4.0, "rgb(255,150,60)"),
    (math.inf, "rgb(255,80,80)"),
)
_BARS = "▁▂▃▄▅▆▇█"
_NARROWEST_COLUMN = 40
_PLAIN_WIDTH = 140
_WIDE = 114  # of a comparison without its labels
_WITH_BARS = 104  # of the steps
# A model can write anything, also what a terminal takes for a command: show such characters as pictures of themselves.
_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
_PICTURES |= {127: 0x2421} | dict.fromkeys(range(128, 160), 0xFFFD)


def console(stderr: bool = False) -> Console:
    """The terminal; without one, plain text as wide as its tables need."""
    made = Console(stderr=stderr, highlight=False, markup=False)
    if made.is_terminal:
        return made
    return Console(stderr=stderr, highlight=False, markup=False, no_color=True, width=_PLAIN_WIDTH)


def visible(text: str) -> str:
    """Text that cannot command a terminal."""
    return text.translate(_PICTURES)


def colour(entropy: float | None) -> str:
    """The colour of an entropy in nats."""
    if entropy is None:
        return "default"
    return next((name for end, name in SCALE if entropy < end), SCALE[-1][1])


def legend() -> Text:
    """The colours and what they mean."""
    text = Text("original entropy", style="dim")
    low = 0.0
    for end, name in SCALE:
        words = f"{low:g}–{end:g}" if end < math.inf else f"over {low:g}"
        text.append(f" ■ {words}", style=f"not dim {name}")
        low = end
    return text.append(" nats")


def coloured(run: Run, prompt: str = "") -> Text:
    """The text of a run, each piece in the colour of its entropy."""
    text = Text(visible(prompt), style="bold")
    for piece in run.pieces:
        text.append(visible(piece.text), style=f"not bold {colour(piece.entropy)}")
    return text


def sparkline(run: Run, width: int) -> Text:
    """The original entropy of the last `width` steps as bars, 0 to 6 nats."""
    line = Text()
    for entropy in run.values("original_entropy")[-width:]:
        bar = _BARS[max(0, min(int(entropy / 6.0 * len(_BARS)), len(_BARS) - 1))]
        line.append(bar, style=colour(entropy))
    return line


def beside(runs: Sequence[Run], prompt: str, terminal: Console, most_lines: int | None = None) -> RenderableType:
    """Runs side by side if the terminal is wide enough, else one below the other; of each the last lines."""
    columns = terminal.width // len(runs) >= _NARROWEST_COLUMN
    width = (terminal.width // len(runs) if columns else terminal.width) - 4
    if most_lines is not None and not columns:
        most_lines = most_lines // len(runs) - 4
    panels = [_panel(run, prompt, terminal, width, most_lines) for run in runs]
    if not columns:
        return Group(*panels)
    grid = Table.grid(expand=True)
    for _ in runs:
        grid.add_column(ratio=1)
    grid.add_row(*panels)
    return grid


def _panel(run: Run, prompt: str, terminal: Console, width: int, most_lines: int | None) -> Panel:
    text = coloured(run, prompt)
    if most_lines is not None:
        text = Text("\n").join(text.wrap(terminal, width)[-max(most_lines, 1) :])
    body = Group(text, Text(), sparkline(run, width))
    counts = f" {len(run.tokens)} tokens"
    if (entropy := run.mean("original_entropy")) is not None:
        counts += f" · entropy {entropy:.2f} → {_figure(run.mean('final_entropy'))}"
    if (temperature := run.mean("temperature")) is not None:
        counts += f" · T {temperature:.2f}"
    return Panel(
        body, title=Text(f" {run.label} ", "bold"), title_align="left", subtitle=Text(f"{counts} ", "dim"),
        subtitle_align="left", border_style="dim", box=box.ROUNDED,
    )  # fmt: skip


def _table(title: str | None, *columns: str | Text, left: Sequence[str] = ()) -> Table:
    table = Table(
        title=Text(title, "bold") if title else None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
        header_style="dim",
    )  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right", no_wrap=column not in left)
    return table


def _figure(value: float | None, form: str = ".2f") -> str:
    if value is None:
        return "–"
    return format(round(value, 4) + 0.0 if isinstance(value, float) else value, form)  # + 0.0: no minus before zero


def steps(run: Run, width: int) -> Table:
    """A table of the steps: what the model knew, what the policy did, what was drawn. Entropies in nats."""
    heads = ["step", "token", "entropy", "", "final", "change", "vocab", "top prob", "T", "rank", "notes"]
    shown = [head for head in heads if width >= _WITH_BARS or head not in ("", "notes")]
    table = _table(f"steps of {run.label}", *shown, left=("token", "", "notes"))
    table.columns[1].no_wrap, table.columns[1].max_width = True, 24
    for token in run.tokens:
        cells = _step(token)
        table.add_row(*(cells[heads.index(head)] for head in shown))
    return table


def _step(token: generation_pb2.Token) -> list[Text]:
    info = token.sampling_info

    def of(name: str) -> float | None:
        return getattr(info, name) if info.HasField(name) else None

    entropy, change = of("original_entropy"), of("entropy_change")
    hot = colour(entropy)
    notes = [name for name in ("saturated", "infeasible") if of(name)]
    notes += [f"phase {info.phase}"] if info.HasField("phase") else []
    notes += [_signal(signal) for signal in token.signals]
    return [
        Text(str(token.index)),
        Text(_token(token), hot),
        Text(_figure(entropy), hot),
        Text("━" * min(round((entropy or 0.0) * 2), 12), hot),
        Text(_figure(of("final_entropy"))),
        Text(_figure(change, "+.2f"), _direction(change)),
        Text(_figure(of("effective_vocab_size"), "d")),
        Text(_figure(of("top_token_prob"))),
        Text(_figure(of("temperature"))),
        Text(str(token.rank) if token.HasField("rank") else "–"),
        Text(" ".join(notes), "yellow"),
    ]


def _signal(signal: generation_pb2.Signal) -> str:
    return generation_pb2.SignalKind.Name(signal.kind).removeprefix("SIGNAL_KIND_").lower()


def _token(token: generation_pb2.Token) -> str:
    """A token in quotes; as bytes where it is not whole characters; by its id where it stands for none."""
    try:
        return repr(token.token_bytes.decode()) if token.token_bytes else f"<{token.token_id}>"
    except UnicodeDecodeError:
        return repr(token.token_bytes)


def comparison(runs: Sequence[Run], width: int, speed: bool = True) -> Table:
    """Runs in figures, a row each, or a column each where the terminal is narrow. Entropies: means, in nats."""
    heads = ["policy", "tokens", "entropy", "final", "change", "T", "T range", "perplexity", "distinct"]
    heads += ["tokens/s", "end"] if speed else ["end"]
    rows = [_compared(run, speed) for run in runs]
    if width >= _WIDE + max(len(run.label) for run in runs):
        table = _table("comparison", *heads, left=("policy", "end"))
        for row in rows:
            table.add_row(*row)
        return table
    table = _table("comparison", "", *[row[0] for row in rows], left=("",))
    for head, *cells in list(zip(heads, *rows, strict=True))[1:]:
        table.add_row(Text(head, "dim"), *cells)
    return table


def _compared(run: Run, speed: bool) -> list[Text]:
    temperature = run.figures("temperature")
    entropy, change = run.mean("original_entropy"), run.mean_change
    row = [
        Text(run.label, "bold"),
        Text(str(len(run.tokens))),
        Text(_figure(entropy), colour(entropy)),
        Text(_figure(run.mean("final_entropy"))),
        Text(_figure(change, "+.2f"), _direction(change)),
        Text(_figure(temperature[0] if temperature else None)),
        Text(f"{temperature[1]:.2f}–{temperature[2]:.2f}" if temperature else "–"),
        Text(_figure(run.perplexity)),
        Text(_figure(run.distinct_share, ".0%")),
    ]
    row += [Text(_figure(run.tokens_per_second, ".0f"))] if speed else []
    return [*row, Text(run.reason)]


def _direction(change: float | None) -> str:
    """Certainty added is cool, certainty taken is hot."""
    return "cyan" if (change or 0.0) < 0 else "magenta"


def summary(run: Run) -> str:
    """A run in one line."""
    parts = [f"{run.reason} after {len(run.tokens)} tokens"]
    if (rate := run.tokens_per_second) is not None:
        parts.append(f"{rate:.0f} tokens/s")
    if (entropy := run.figures("original_entropy")) is not None:
        parts.append(f"entropy {entropy[0]:.2f} nats ({entropy[1]:.2f}–{entropy[2]:.2f})")
    if (temperature := run.mean("temperature")) is not None:
        parts.append(f"temperature {temperature:.2f}")
    if (perplexity := run.perplexity) is not None:
        parts.append(f"perplexity {perplexity:.2f}")
    if run.started is not None:
        parts += [f"seed {run.started.seed}", format_policy(run.started.policy)]
    return " · ".join(parts)


def policies(descriptions: Sequence[model_pb2.PolicyDescription]) -> RenderableType:
    """Every policy with its parameters."""
    parts: list[RenderableType] = []
    for policy in descriptions:
        parts.append(Text.assemble((policy.name, "bold cyan"), "  ", policy.summary))
        if not policy.parameters:
            parts.append(Text("  no parameters\n", "dim"))
            continue
        heads = ("parameter", "default", "range", "unit", "what it does")
        table = _table(None, *heads, left=heads)
        for parameter in policy.parameters:
            default = parameter.WhichOneof("default_value")
            words = parameter.choice if default == "choice" else f"{parameter.number:g}" if default else "–"
            table.add_row(parameter.name, words, _range(parameter), parameter.unit, parameter.help)
        parts.append(table)
    return Group(*parts)


def presets(descriptions: Sequence[model_pb2.PresetDescription]) -> Table:
    """Every preset with what it stands for."""
    table = _table(None, "preset", "policy", "filters", "where it comes from", left=("preset", "policy", "filters"))
    table.columns[-1].justify = "left"
    for preset in descriptions:
        filters = ",".join(f"{field.name}={value:g}" for field, value in preset.filters.ListFields() if value)
        table.add_row(preset.name, format_policy(preset.policy), filters, preset.summary)
    return table


def _range(parameter: model_pb2.ParameterDescription) -> str:
    if parameter.choices:
        return ", ".join(parameter.choices)
    words = []
    if parameter.HasField("minimum"):
        words.append(f"{'above' if parameter.minimum_excluded else 'at least'} {parameter.minimum:g}")
    if parameter.HasField("maximum"):
        words.append(f"at most {parameter.maximum:g}")
    return ", ".join(words) or "any"


def model(description: model_pb2.Model) -> Table:
    """The served model as a table."""
    table = _table(None, "property", "value", left=("property", "value"))
    for field in description.DESCRIPTOR.fields:
        value = getattr(description, field.name)
        number = isinstance(value, int) and not isinstance(value, bool)
        listed = ", ".join(map(str, value)) if hasattr(value, "extend") else str(value)
        table.add_row(field.name.replace("_", " "), f"{value:,}" if number else listed)
    return table
