"""An arm as the driver sees it: a process that does jobs. While it is not its turn it is stopped, so that threads that
wait by spinning take nothing from the others."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.worker import REPLIES, THREADS, Job, Outcome

ROOT = Path(__file__).parents[1]


class ArmFailed(Exception):
    """It could not start or died; the message is the last that it said."""


class Arm:
    """A running arm. command: what starts it; it speaks the protocol of worker.py."""

    def __init__(self, command: Sequence[str], **variables: str) -> None:
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 closed with the arm
        replies, theirs = os.pipe()
        self._replies = os.fdopen(replies)
        environment = os.environ | {"OMP_NUM_THREADS": str(THREADS), REPLIES: str(theirs)} | variables
        # A group in the driver's session: should the driver die, the system wakes and ends what is stopped.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=self._said, stderr=self._said, text=True, cwd=ROOT, env=environment,
            pass_fds=[theirs], process_group=0,
        )  # fmt: skip
        os.close(theirs)
        try:
            self.about: str = self._read()["about"]
        except ArmFailed:
            self.close()
            raise
        self._signal(signal.SIGSTOP)

    def run(self, job: Job) -> tuple[Outcome, float]:
        """What came of a job, and the peak of resident memory in MiB, over all processes of the arm."""
        self._signal(signal.SIGCONT)
        for process in self._processes():
            with contextlib.suppress(OSError):
                (process / "clear_refs").write_text("5")
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(asdict(job)) + "\n")
            self._process.stdin.flush()
        outcome = Outcome(**self._read())
        peak = sum(map(_peak, self._processes()))
        self._signal(signal.SIGSTOP)
        return outcome, peak

    def close(self) -> None:
        """End it and all that it started."""
        self._signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process.wait(10)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._said.close()
        self._replies.close()

    def _read(self) -> dict:
        line = self._replies.readline()
        if not line:
            self._said.seek(0)
            said = [text.strip() for text in self._said if text.strip()]
            raise ArmFailed(said[-1][-300:] if said else "it ended without a word")
        return json.loads(line)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _processes(self) -> list[Path]:
        return [stat.parent for stat in Path("/proc").glob("[0-9]*/stat") if _group(stat) == self._process.pid]

    def __enter__(self) -> "Arm":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _group(stat: Path) -> int | None:
    """Process group; None if the process is gone."""
    try:
        return int(stat.read_text().rpartition(")")[2].split()[2])
    except OSError:
        return None


def _peak(process: Path) -> float:
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
