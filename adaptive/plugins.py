"""Policies that installed packages add, through the entry point group `thermostat.policies`."""

from functools import cache
from importlib.metadata import entry_points

from adaptive.policies import Policy

GROUP = "thermostat.policies"


@cache
def installed() -> dict[str, type[Policy]]:
    """The policies of installed packages by name."""
    return {point.name: point.load() for point in entry_points(group=GROUP)}
