"""The commands of whoever runs a server: is it well, and what is it doing."""

from __future__ import annotations

import itertools
import time

import click
import grpc
from rich.live import Live

from thermostat import errors, render
from thermostat.client import Client
from thermostat.top import NoMetrics, Top, scrape


@click.command()
@click.option("--wait", type=float, default=3.0, show_default=True, metavar="SECONDS", help="How long to ask.")
@click.pass_obj
def health(client: Client, /, wait: float) -> None:
    """Say whether the server serves; exit status 3 if it does not. Needs no token."""
    client.wait_ready(wait)
    click.echo("serving")


@click.command(short_help="Watch a server live.")
@click.argument("url", envvar="THERMOSTAT_METRICS", default="http://localhost:9464/metrics")
@click.option("--every", type=click.FloatRange(0.1), default=1.0, show_default=True, help="Seconds between two looks.")
@click.option("--count", type=click.IntRange(1), help="Stop after so many looks.  [default: Ctrl-C]")
def top(url: str, every: float, count: int | None) -> None:
    """Watch the server whose metrics are at URL (default: the variable THERMOSTAT_METRICS, or port 9464 here)."""
    out = render.console()
    whole = out.is_terminal and count is None
    try:
        view = Top(scrape(url))
        with Live(get_renderable=view.view, console=out, auto_refresh=False, screen=whole) as live:
            for _ in itertools.count(1) if count is None else range(1, count):
                live.refresh()
                time.sleep(every)
                view.take(scrape(url))
    except NoMetrics as fault:
        raise errors.Unavailable(grpc.StatusCode.UNAVAILABLE, str(fault), errors.Details(reason="NO_METRICS")) from None
