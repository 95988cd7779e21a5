"""What is decoded, and the figures of a run. Standard library alone."""

import itertools
import random
import statistics
from typing import NamedTuple

from benchmarks.worker import Job, Outcome

VOCAB = {"random": 32_000, "0.6B": 151_936, "embedded": 4096}


class Case(NamedTuple):
    """A cell of the table. sampled: whether it is drawn from top_p 0.9, or greedy. tokens: new ones a stream."""

    model: str
    dtype: str
    streams: int
    prompt: int
    sampled: bool
    tokens: int

    def job(self, turn: int, setting: str) -> Job:
        """The same for every arm. No two jobs of a contest have the same prompts, so that no prefix cache helps."""
        chance = random.Random(f"{self.streams} {self.prompt} {turn} {setting}")
        prompts = [[chance.randrange(1, VOCAB[self.model]) for _ in range(self.prompt)] for _ in range(self.streams)]
        return Job(prompts, self.tokens, setting)


class Figures(NamedTuple):
    """Of one run: tokens a second with the prompts included; milliseconds to the first token, median of the streams,
    and between tokens; MiB."""

    rate: float
    first: float
    gap: float
    late_gap: float
    peak: float


def figures(outcome: Outcome, peak: float) -> Figures:
    """Figures of a run."""
    count, end = sum(map(len, outcome.tokens)), max(times[-1] for times in outcome.times)
    gaps = [later - earlier for times in outcome.times for earlier, later in itertools.pairwise(times)]
    cuts = statistics.quantiles([gap * 1e3 for gap in gaps], n=100, method="inclusive")
    first = statistics.median(times[0] for times in outcome.times) * 1e3
    return Figures(count / end, first, cuts[49], cuts[98], peak)


def agreement(ones: list[list[int]], others: list[list[int]]) -> float:
    """Share of the tokens before each stream's first difference: past it, texts differ anyhow."""
    agreed = 0
    for one, other in zip(ones, others, strict=True):
        same = [a == b for a, b in zip(one, other, strict=True)]
        agreed += same.index(False) if False in same else len(same)
    return agreed / sum(map(len, ones))
