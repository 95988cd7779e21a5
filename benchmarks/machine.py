"""The machine that figures come from, and how figures are put: medians with their spread. Standard library alone."""

import datetime
import os
import statistics
from collections.abc import Sequence
from pathlib import Path


def processor() -> str:
    """Model of the machine's processor."""
    info = Path("/proc/cpuinfo")
    names = [text for text in info.read_text().splitlines() if text.startswith("model name")] if info.exists() else []
    return names[0].split(":")[1].strip() if names else "unknown processor"


def occasion() -> str:
    """Today, the processor, its cores, and how busy the machine is with other things."""
    load, spins = os.getloadavg()[0], os.environ.get("GOMP_SPINCOUNT", "each arm's own")
    return (
        f"{datetime.date.today()}, {processor()}, {os.cpu_count()} cores, load before {load:.1f}, "
        f"GOMP_SPINCOUNT {spins}"
    )


def spread(values: Sequence[float]) -> str:
    """Median, and the middle half in brackets."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    return f"{middle:.3g} ({low:.3g}-{high:.3g})"


def ratio(ones: Sequence[float], others: Sequence[float]) -> str:
    """Spread of the ratios turn by turn, so that what else the machine did in a turn falls on both."""
    return spread([one / other for one, other in zip(ones, others, strict=True)])


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *lines)]
