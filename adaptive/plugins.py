"""Policies that installed packages add, through the entry point group `thermostat.policies`.

A package names its class in its pyproject, under the class's own `name`; installing the package is all it takes:

    [project.entry-points."thermostat.policies"]
    sway = "thermostat_sway:Sway"
"""

import logging
import math
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from adaptive.policies import POLICIES, Policy

GROUP = "thermostat.policies"
_log = logging.getLogger(__name__)


@cache
def installed() -> dict[str, type[Policy]]:
    """The policies of installed packages by name. One that cannot be used is left out, and the log says why."""
    kinds: dict[str, type[Policy]] = {}
    for point in entry_points(group=GROUP):
        try:
            if point.name in kinds:
                raise TypeError("another package has a policy of this name")
            kinds[point.name] = _checked(point.name, point.load())
        except (Exception, SystemExit) as fault:  # what a stranger's module does on import is not for us to foresee
            _log.warning("policy %s of %s is left out: %s: %s", *_origin(point), type(fault).__name__, fault)
    return kinds


def _origin(point: EntryPoint) -> tuple[str, str]:
    return point.name, f"package {point.dist.name}" if point.dist else point.value


def _checked(name: str, kind: Any) -> type[Policy]:
    """The class, if it is a policy that can be described, built with its defaults and run; else TypeError, or
    ParameterError for a default out of range."""
    if not (isinstance(kind, type) and issubclass(kind, Policy)):
        raise TypeError("it is no subclass of adaptive.Policy")
    if getattr(kind, "name", None) != name:
        raise TypeError(f"its class's name is {getattr(kind, 'name', None)!r}, not the entry point's")
    if name in POLICIES:
        raise TypeError("a built-in policy has this name")
    if kind.control.__func__ is Policy.control.__func__:  # type: ignore[attr-defined]
        raise TypeError("it does not define control")
    policy = kind()
    list(kind.parameters())
    state = policy.initial_state()
    if [value.name for value in kind.state] != list(state) or not all(map(math.isfinite, state.values())):
        raise TypeError("its initial_state does not give a finite number for each name in state, in order")
    return kind
