"""`thermostat compare`: a prompt under several policies at once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from thermostat import errors, render
from thermostat.client import Client, Generation
from thermostat.events import Event
from thermostat.exits import INTERRUPTED, exit_code, tell
from thermostat.flags import PolicyWords, begin, prompt_flags, read_prompt, request_flags
from thermostat.lines import event_line
from thermostat.run import Run
from thermostat.together import together


@click.command(short_help="Continue a prompt under several policies at once.")
@prompt_flags
@click.option(
    "--policy", "policies", type=PolicyWords(), multiple=True, default=("fixed", "entropy_band", "target_entropy"),
    show_default=True, help="A policy to compare. Repeatable.",
)  # fmt: skip
@request_flags
@click.pass_obj
def compare(
    client: Client, /, prompt: str | None, file: Any, token_ids: bool, chat: bool, system: str | None,
    policies: Sequence[str], show_steps: bool, as_json: bool, seed: int | None, **options: Any,
) -> None:  # fmt: skip
    """Continue PROMPT under several policies at once, with the same seed, and compare them.

    \b
    Example:
      thermostat compare "def " --policy fixed --policy target_entropy:target_entropy=2 --show-steps
    """
    words = read_prompt(prompt, file, token_ids, chat, system)
    seed = random.getrandbits(32) if seed is None else seed
    runs = [Run(label) for label in _labels(policies)]
    generations = [begin(client, words, {**options, "seed": seed, "policy": policy}) for policy in policies]
    out = render.console()
    if not as_json:
        out.print(Text(f"prompt {words!r} · seed {seed}", style="dim"), soft_wrap=True)
    try:
        if as_json:
            _stream_json(runs, generations)
        elif out.is_terminal and not out.is_dumb_terminal:
            _stream_live(runs, generations, words if isinstance(words, str) else "", out)
        else:
            _gather(runs, generations)
        status = 0
    except KeyboardInterrupt:
        status = INTERRUPTED
    if not as_json:
        _compare(runs, words if isinstance(words, str) else "", out, show_steps)
    failed = [run for run in runs if isinstance(run.error, errors.ThermostatError)]
    for run in failed:
        tell(run.error, run.label)  # type: ignore[arg-type]
    if failed and not status:
        status = exit_code(failed[0].error)
    click.get_current_context().exit(status)


def _labels(policies: Sequence[str]) -> list[str]:
    """The words of each policy, numbered where they come again."""
    seen: dict[str, int] = {}
    labels = []
    for policy in policies:
        seen[policy] = seen.get(policy, 0) + 1
        labels.append(policy if seen[policy] == 1 else f"{policy} #{seen[policy]}")
    return labels


def _take(run: Run, event: Event | errors.ThermostatError) -> None:
    if isinstance(event, errors.ThermostatError):
        run.error = event
    else:
        run.take(event)


def _gather(runs: Sequence[Run], generations: Sequence[Generation]) -> None:
    for place, event in together(generations):
        _take(runs[place], event)


def _stream_json(runs: Sequence[Run], generations: Sequence[Generation]) -> None:
    for place, event in together(generations):
        _take(runs[place], event)
        if not isinstance(event, errors.ThermostatError):
            click.echo(event_line(event, policy=runs[place].label))


def _stream_live(runs: Sequence[Run], generations: Sequence[Generation], prompt: str, out: Console) -> None:
    """Redraw all runs as tokens arrive; the last lines of each, as many as the terminal holds."""
    most_lines = max(out.height - 6, 4)

    def draw() -> Any:
        return render.beside(runs, prompt, out, most_lines)

    with Live(get_renderable=draw, console=out, transient=True, refresh_per_second=20):
        _gather(runs, generations)


def _compare(runs: Sequence[Run], prompt: str, out: Console, show_steps: bool) -> None:
    live = out.is_terminal and not out.is_dumb_terminal
    if not any(run.started for run in runs):
        return
    if live:
        out.print(render.beside(runs, prompt, out))
        out.print(render.legend(), "", sep="\n")
    for run in runs:
        if not live:
            click.echo(f"\n== {run.label} ==\n{prompt}{run.text}\n")
        if show_steps and run.tokens:
            out.print(render.steps(run, out.width))
    out.print(render.comparison(runs, out.width, speed=live))
    if not live:  # what differs from run to run is kept apart from what does not
        rates = [(run.label, run.tokens_per_second) for run in runs]
        click.echo("tokens/s: " + ", ".join(f"{label} {rate or 0:.0f}" for label, rate in rates), err=True)
