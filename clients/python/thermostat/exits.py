"""How the command ends: one clear line of what failed, and a status."""

from __future__ import annotations

from collections.abc import Iterable

import click

from thermostat import errors

INTERRUPTED = 130
_EXIT_CODES = {
    errors.InvalidRequest: 2,
    errors.ModelNotFound: 2,
    errors.Unavailable: 3,
    errors.Overloaded: 3,
    errors.DeadlineExceeded: 4,
    errors.ServerFault: 5,
}


def exit_code(error: Exception | None) -> int:
    """The status that tells of an error."""
    return next((code for kind, code in _EXIT_CODES.items() if isinstance(error, kind)), 1)


def tell(error: errors.ThermostatError, label: str = "") -> None:
    """One clear line, then every field at fault."""
    message = error.message
    if isinstance(error, errors.InvalidRequest) and error.violations:
        message = "the request is invalid"
    elif isinstance(error, errors.Unavailable) and not error.reason:
        server = click.get_current_context().find_root().params["server"]
        message = f"no answer from the server at {server} ({message})"
    if error.retry_after is not None:
        message += f"; try again in {error.retry_after:g} s"
    if error.incident and error.incident not in message:
        message += f" (incident {error.incident})"
    lines: Iterable[str] = (f"  {each.field}: {each.description}" for each in error.violations)
    click.echo("\n".join([f"Error: {label + ': ' if label else ''}{message}", *lines]), err=True)
