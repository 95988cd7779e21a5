"""Where settings come from: flags, then THERMOSTAT_ variables, then one TOML file, then defaults; and how they show."""

import json
import tomllib
from pathlib import Path
from typing import Any

import click

_SOURCES = {"COMMANDLINE": "flag", "ENVIRONMENT": "environment", "DEFAULT_MAP": "file", "DEFAULT": "default"}
_NO_SETTINGS = {"config", "print_config", "version", "help"}


def read_file(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Callback of --config. The keys are the flags without their dashes in front. UsageError names what is wrong."""
    if path is None:
        return
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise click.UsageError(f"{path}: {fault}") from None
    known = {_key(parameter) for parameter in context.command.params if parameter.name not in _NO_SETTINGS}
    if unknown := settings.keys() - known:
        raise click.UsageError(f"{path}: no setting {sorted(unknown)[0]!r}; there are {', '.join(sorted(known))}")
    context.default_map = {key.replace("-", "_"): value for key, value in settings.items()}


def resolved(context: click.Context) -> str:
    """Every setting with its value and where it comes from, as a file that --config takes."""
    lines = []
    for parameter in context.command.params:
        if parameter.name is None or parameter.name in _NO_SETTINGS:
            continue
        value = context.params[parameter.name]
        if value is None:
            lines.append(f"# {_key(parameter)} is not set")
            continue
        source = context.get_parameter_source(parameter.name)
        told = _SOURCES.get(source.name, "default") if source is not None else "default"
        lines.append(f"{f'{_key(parameter)} = {_literal(value)}':<44} # {told}")
    return "\n".join(lines)


def _key(parameter: click.Parameter) -> str:
    return (parameter.name or "").replace("_", "-")


def _literal(value: Any) -> str:
    """A value in TOML, whose strings, numbers and booleans are written as in JSON."""
    return json.dumps(str(value) if isinstance(value, Path) else value)
