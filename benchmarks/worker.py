"""The side of the protocol that an arm runs: one JSON object a line, a job on stdin and what came of it on
the pipe whose number REPLIES has in the environment. stdout is left to the libraries.

    {"prompts": [[5, 9, 2]], "tokens": 64, "setting": "fixed"}
    {"tokens": [[7, 7, 1]], "times": [[0.03, 0.05, 0.07]]}

times: seconds from the job's arrival to each token. Standard library alone, for it runs in the peers' environments too.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

THREADS = len(os.sched_getaffinity(0))
TEMPERATURE, TOP_P, TARGET = 0.8, 0.9, 2.0
REPLIES = "BENCHMARK_REPLIES"


@dataclass(frozen=True)
class Job:
    """Prompts to continue by `tokens` tokens each, past any end. setting: "greedy", "fixed" (TEMPERATURE and TOP_P) or
    "target" (entropy TARGET and TOP_P), which only ours has."""

    prompts: list[list[int]]
    tokens: int
    setting: str


@dataclass
class Outcome:
    """Tokens of each stream, and when they came. step: milliseconds of a step's parts, where the arm can tell."""

    tokens: list[list[int]]
    times: list[list[float]]
    step: dict[str, float] = field(default_factory=dict)


class Watch:
    """Takes down tokens of a job as they come."""

    def __init__(self, job: Job) -> None:
        self.outcome = Outcome([[] for _ in job.prompts], [[] for _ in job.prompts])
        self._begin = time.perf_counter()

    def take(self, stream: int, *tokens: int) -> None:
        """Note that these came now."""
        now = time.perf_counter() - self._begin
        self.outcome.tokens[stream].extend(tokens)
        self.outcome.times[stream].extend([now] * len(tokens))


def work(about: str, run: Callable[[Job], Outcome]) -> None:
    """Say what this is, then do jobs until stdin ends."""
    with os.fdopen(int(os.environ[REPLIES]), "w") as replies:
        print(json.dumps({"about": about}), file=replies, flush=True)
        for line in sys.stdin:
            print(json.dumps(asdict(run(Job(**json.loads(line))))), file=replies, flush=True)
