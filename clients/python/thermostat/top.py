"""A live view of a server, from its metrics: how many streams, how fast, how sure, how hot."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections import defaultdict, deque
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_PREFIX = "thermostat_"
_BARS = "▁▂▃▄▅▆▇█"
_HISTORY = 60


class NoMetrics(Exception):
    """No server answers at the address, or what answers is not a Thermostat."""


@dataclass
class Scrape:
    """What the metrics were at one moment (monotonic seconds): by name, and by name and policy."""

    at: float
    values: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    by_policy: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))
    model: str = ""


def scrape(url: str, timeout: float = 5.0) -> Scrape:
    """Ask once. NoMetrics if nothing that can be read comes within `timeout` seconds."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            text = answer.read().decode()
    except (OSError, ValueError) as fault:
        reason = getattr(fault, "reason", fault)
        raise NoMetrics(f"no metrics at {url} ({reason}); start the server with --metrics-port") from None
    return read(text)


def read(text: str) -> Scrape:
    """The figures of a scrape, in Prometheus' text format; samples that differ in other labels are summed."""
    found = Scrape(time.monotonic())
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.startswith(_PREFIX) or "le" in sample.labels:
                continue
            name = sample.name.removeprefix(_PREFIX)
            found.values[name] += sample.value
            if policy := sample.labels.get("policy"):
                found.by_policy[policy][name] += sample.value
            if name == "model_info":
                found.model = f"{sample.labels['model']} ({sample.labels['dtype']}, {sample.labels['device']})"
    if "engine_up" not in found.values:
        raise NoMetrics("what answers has no metrics of a Thermostat server")
    return found


class Top:
    """What is shown: the last scrape, its difference from the one before, and the history of two figures."""

    def __init__(self, first: Scrape) -> None:
        self._last = first
        self._before: Scrape | None = None
        self._speed: deque[float] = deque(maxlen=_HISTORY)
        self._entropy: deque[float] = deque(maxlen=_HISTORY)

    def take(self, found: Scrape) -> None:
        """Take in a scrape. A server that was restarted begins anew."""
        restarted = found.values["steps_total"] < self._last.values["steps_total"]
        self._before, self._last = None if restarted else self._last, found
        if self._before is not None:
            self._speed.append(self._rate("generation_tokens_total"))
            self._entropy.append(_mean(found.values, self._before.values, "original_entropy_nats") or 0.0)

    def _rate(self, name: str) -> float:
        """Growth a second since the scrape before."""
        last, before = self._last, self._before
        if before is None or last.at <= before.at:
            return 0.0
        return max(0.0, last.values[name] - before.values[name]) / (last.at - before.at)

    def view(self) -> RenderableType:
        """For the terminal."""
        state = Text("up", style="green") if self._last.values["engine_up"] else Text("down", style="bold red")
        title = Text.assemble("thermostat ", (self._last.model, "bold"), " ", state)
        return Panel(Group(self._figures(self._last), Text(), self._policies(self._last)), title=title)

    def _figures(self, last: Scrape) -> Table:
        values = last.values
        table = Table.grid(padding=(0, 2))
        table.add_column(justify="right", style="dim")
        table.add_column(justify="right", min_width=12)
        table.add_column()
        rows, capacity = values["rows"], values["kv_cache_capacity_tokens"]
        table.add_row(
            "streams", f"{values['requests_running']:.0f} of {rows:.0f}", _bar(values["requests_running"], rows)
        )
        table.add_row("queue", f"{values['requests_waiting']:.0f}")
        kv = values["kv_cache_tokens"]
        table.add_row("KV memory", f"{kv / capacity if capacity else 0:.0%}", _bar(kv, capacity))
        table.add_row("tokens/s", f"{self._rate('generation_tokens_total'):.1f}", _spark(self._speed))
        entropy = f"{self._entropy[-1]:.2f} nats" if self._entropy else "–"
        table.add_row("entropy", entropy, _spark(self._entropy))
        ends = ("finished_total", "cancelled_total", "failed_total")
        told = ", ".join(f"{values[name]:.0f} {name.removesuffix('_total')}" for name in ends)
        table.add_row("since start", f"{values['generation_tokens_total']:.0f} tokens", Text(told, style="dim"))
        return table

    def _policies(self, last: Scrape) -> Table:
        """Each policy since the scrape before; one that drew nothing since is shown since the start, dimmed."""
        table = Table(box=None, header_style="dim")
        for column in ("policy", "tokens/s", "entropy", "final", "change", "temperature", "saturated"):
            table.add_column(column, justify="left" if column == "policy" else "right")
        for policy, values in sorted(last.by_policy.items()):
            before = self._before.by_policy[policy] if self._before is not None else None
            count = "original_entropy_nats_count"
            fresh = before is not None and values[count] > before[count]
            since = before if fresh and before is not None else defaultdict(float)
            tokens = values[count] - since[count]
            seconds = last.at - self._before.at if fresh and self._before is not None else 0.0
            original, final = (_mean(values, since, f"{name}_entropy_nats") for name in ("original", "final"))
            saturated = (values["saturated_tokens_total"] - since["saturated_tokens_total"]) / tokens if tokens else 0.0
            table.add_row(
                policy, f"{tokens / seconds:.1f}" if seconds else "0", _told(original), _told(final),
                _told(final - original if final is not None and original is not None else None, "+.2f"),
                _told(_mean(values, since, "temperature")), f"{saturated:.0%}", style="" if fresh else "dim",
            )  # fmt: skip
        return table


def _mean(values: dict[str, float], since: dict[str, float], name: str) -> float | None:
    """Mean of a histogram's values that came since; None if none came."""
    count = values[f"{name}_count"] - since[f"{name}_count"]
    return (values[f"{name}_sum"] - since[f"{name}_sum"]) / count if count > 0 else None


def _told(value: float | None, form: str = ".2f") -> str:
    return "–" if value is None else format(value, form)


def _bar(value: float, most: float) -> RenderableType:
    return ProgressBar(total=max(most, 1.0), completed=value, width=30)


def _spark(values: deque[float]) -> Text:
    """The last values as bars, the largest one full."""
    most = max(values, default=0.0) or 1.0
    return Text("".join(_BARS[min(len(_BARS) - 1, int(value / most * len(_BARS)))] for value in values), style="cyan")
