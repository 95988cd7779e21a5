"""The machine that figures come from, and how figures are put: medians with their spread. Standard library alone."""

import datetime
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

_WIDTHS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
"""What decides how fast products are, the best first."""


def processor() -> str:
    """Model of the machine's processor, and the widest instructions that it has."""
    info = Path("/proc/cpuinfo")
    told = [line.partition(":") for line in info.read_text().splitlines()] if info.exists() else []
    facts = {name.strip(): value.strip() for name, _, value in told}
    flags = facts.get("flags", "").split()
    width = next((name for name in _WIDTHS if name in flags), "no avx2")
    return f"{facts['model name']} ({width})" if "model name" in facts else "unknown processor"


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
