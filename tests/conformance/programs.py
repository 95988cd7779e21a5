"""The clients' programs: what CLIENTS in the environment names, or those in Python, which need no build."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from tests.conformance.suite import Program

# From the name of a program, "example" or "conformance", to the command that runs it once it is built.
_COMMANDS: dict[str, tuple[str, Callable[[str], tuple[str, ...]]]] = {
    "python": ("python", lambda name: (sys.executable, f"{name}.py")),
    "python-async": ("python", lambda name: (sys.executable, f"{name}_async.py")),
    "node": ("typescript", lambda name: ("node", f"build/{name}.js")),
    "browser": ("typescript", lambda name: (sys.executable, "browser.py", "connect", name)),
    "browser-grpc-web": ("typescript", lambda name: (sys.executable, "browser.py", "grpc-web", name)),
    "go": ("go", lambda name: (f"build/{name}",)),
    "cpp": ("cpp", lambda name: (f"build/{name}",)),
    "java": ("java", lambda name: ("java", "@build/classpath", name.capitalize())),
    "ruby": ("ruby", lambda name: ("ruby", f"{name}.rb")),
    # Of the contract as it was first released.
    "python-previous": ("previous", lambda name: (sys.executable, "client.py")),
    "node-previous": ("previous", lambda name: ("node", f"build/node/build/{name}.js")),
}
WEB = ("browser", "browser-grpc-web")
PREVIOUS = ("python-previous", "node-previous")
CHOSEN = os.environ.get("CLIENTS", "python python-async").split()


def program(client: str, name: str) -> Program:
    """The "example" or the "conformance" program of a client."""
    folder, command = _COMMANDS[client]
    return Program(command(name), folder)
