"""Values that are read from files, and read again when the files change."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class BadFile(RuntimeError):
    """A file without which the server cannot start."""


class Refreshable(Protocol):
    """What `keep_fresh` keeps fresh."""

    def refresh(self) -> None:
        """Look at the files; take in what has changed."""


class Watched(Generic[_T]):
    """`value` is what `read` made of the files when it last could: what is bad leaves the old value in force.

    read: raises OSError or ValueError; at the start that is a BadFile.
    """

    def __init__(self, what: str, paths: Sequence[Path], read: Callable[[], _T]) -> None:
        self._what = what
        self._paths = paths
        self._read = read
        self._stamp = self._look()
        try:
            self.value = read()
        except (OSError, ValueError) as fault:
            raise BadFile(f"the {what} cannot be used: {fault}") from fault

    def refresh(self) -> None:
        """Read the files again if they have changed since they were last tried."""
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self.value = self._read()
        except (OSError, ValueError) as fault:
            _log.error("the new %s cannot be used, the old stays in force: %s", self._what, fault)
        else:
            _log.info("the new %s is in force", self._what)

    def _look(self) -> tuple:
        """What changes when a file is written or another is put in its place."""
        looks: list[tuple[int, int, int] | None] = []
        for path in self._paths:
            try:
                stat = path.stat()
                looks.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
            except OSError:
                looks.append(None)
        return tuple(looks)


def refresh(watched: Sequence[Refreshable]) -> None:
    """Look at all of them now."""
    for each in watched:
        each.refresh()


async def keep_fresh(watched: Sequence[Refreshable], seconds: float) -> None:
    """Look every so many seconds, for ever."""
    while True:
        await asyncio.sleep(seconds)
        refresh(watched)
