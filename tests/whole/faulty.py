"""Servers that fail on demand, and what can be seen of a process from outside."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.whole.conftest import process

TOO_MUCH = 4095
"""The token that there is never memory for."""
_INJECT = Path(__file__).parent / "inject"


def resident(pid: int) -> float:
    """Resident memory of a process in MiB."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def descriptors(pid: int) -> int:
    """Files and sockets that a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def no_more_descriptors(pid: int) -> int:
    """The limit on a process's open files with which it can open no other: the lowest number that is free, where a new
    one would come, of some readings, for files that are open for a moment."""
    free = []
    for _ in range(20):
        taken = {int(number) for number in os.listdir(f"/proc/{pid}/fd")}
        free.append(next(number for number in range(len(taken) + 1) if number not in taken))
        time.sleep(0.05)
    return min(free)


def seconds_until(holds: Callable[[], bool], most: float) -> float:
    """How long it took; AssertionError after `most`."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < most, f"not so within {most:g} s"
        time.sleep(0.02)
    return time.monotonic() - began


def injected(folder: Path) -> dict[str, str]:
    """Environment of a server in whose engine `folder / fault` causes a fault."""
    return {
        "PYTHONPATH": os.pathsep.join([str(_INJECT), os.environ.get("PYTHONPATH", "")]),
        "FAULTS": str(folder),
        "TOO_MUCH": str(TOO_MUCH),
    }


class Supervised:
    """A server on one port, started again whenever it ends, as a supervisor does.

    running: its process now. endings: exit statuses so far; negative for a signal.
    """

    def __init__(self, folder: Path, *arguments: str) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self._port = str(found.getsockname()[1])
        self.address = f"127.0.0.1:{self._port}"
        self.endings: list[int] = []
        self.running: subprocess.Popen
        self._folder = folder
        self._arguments = arguments
        self._up, self._done = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._supervise)

    def fail(self, fault: str) -> None:
        """Cause a fault of `inject/sitecustomize.py`, or "killed"."""
        if fault == "killed":
            self.running.send_signal(signal.SIGKILL)
        else:
            (self._folder / fault).touch()

    def __enter__(self) -> "Supervised":
        self._thread.start()
        assert self._up.wait(60), "the server did not start"
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        self._thread.join(60)

    def _supervise(self) -> None:
        while not self._done.is_set():
            arguments = ("--port", self._port, *self._arguments)
            with process(*arguments, **injected(self._folder)) as (self.running, _):
                self._up.set()
                while self.running.poll() is None and not self._done.wait(0.02):
                    pass
                if self.running.returncode is not None:
                    self.endings.append(self.running.returncode)
