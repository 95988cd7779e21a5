"""The sampler against the naive way and Hugging Face's processors: `make bench`.

Logits to tokens with all their sampling info on the host. The naive way is softmax, a full sort and `.item()`, row by
row; it reports two entropies and a count. Hugging Face's processors report nothing. Results are compared before
anything is timed. All arms of a case take turns, and a ratio is the median of the ratios of the turns, so that what
else the machine does falls on all of them. The table goes to benchmarks/results/sampler.md.
"""

import os

# As the server sets it: threads that wait give the core away soon. To be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "4000")

import argparse
import datetime
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from adaptive import Filters, Fixed, Policy, Rows, RowSettings, TargetEntropy, compile_sampler, step
from benchmarks.machine import processor, ratio, spread

TEMPERATURE, TARGET = 0.8, 2.0
SPREADS = {"peaked": 4.0, "flat": 1.0}
CHAINS = {
    "top_k 50, top_p 0.9, min_p 0.02": Filters(top_k=50, top_p=0.9, min_p=0.02),
    "top_p 0.9": Filters(top_p=0.9),
}
RESULTS = Path(__file__).parent / "results" / "sampler.md"


class Case(NamedTuple):
    """What is sampled from."""

    vocab: int
    rows: int
    spread: str
    chain: str


def naive(logits: Tensor, filters: Filters) -> list[tuple[float, float, int, int]]:
    """(original entropy, final entropy, tokens left, token) of each row."""
    out = []
    for row in logits:
        p = row.softmax(-1)
        original = -(p * p.clamp_min(1e-12).log()).sum().item()
        z = row / TEMPERATURE
        if filters.top_k is not None:
            z = z.masked_fill(z < z.topk(filters.top_k).values[-1], -torch.inf)
        if filters.top_p is not None:
            ranked, order = z.sort(descending=True)
            mass = ranked.softmax(-1).cumsum(-1)
            removed = mass >= filters.top_p
            removed[1:] = removed[:-1].clone()
            removed[0] = False
            z = z.masked_fill(torch.zeros_like(removed).scatter(-1, order, removed), -torch.inf)
        if filters.min_p is not None:
            p = z.softmax(-1)
            z = z.masked_fill(p < filters.min_p * p.max(), -torch.inf)
        q = z.softmax(-1)
        final = -(q * q.clamp_min(1e-12).log()).sum().item()
        out.append((original, final, int((q > 0).sum().item()), int(torch.multinomial(q, 1).item())))
    return out


def processors(filters: Filters) -> LogitsProcessorList:
    """Hugging Face's, in the order of `generate`."""
    chain = LogitsProcessorList([TemperatureLogitsWarper(TEMPERATURE)])
    if filters.top_k is not None:
        chain.append(TopKLogitsWarper(filters.top_k))
    if filters.top_p is not None:
        chain.append(TopPLogitsWarper(filters.top_p))
    if filters.min_p is not None:
        chain.append(MinPLogitsWarper(filters.min_p))
    return chain


def hugging_face(logits: Tensor, chain: LogitsProcessorList) -> list[int]:
    """Tokens, as `generate` draws them."""
    return torch.multinomial(chain(None, logits).softmax(-1), 1)[:, 0].tolist()


def check(logits: Tensor, filters: Filters) -> None:
    """The same figures as the naive way's, but for a token at the edge of top_p that float32 cannot place."""
    rows = Rows([RowSettings(Fixed(TEMPERATURE), filters)] * len(logits))
    records = step(logits, rows)[1].records()
    for (info, _), (original, final, count, _) in zip(records, naive(logits, filters), strict=True):
        other = abs(info.effective_vocab_size - count)
        same = abs(info.original_entropy - original) < 1e-3
        same &= abs(info.final_entropy - final) < (0.05 if other else 5e-3)
        if not same or other > 2 + count // 1000:
            raise SystemExit(f"not the same: {info} and {original, final, count}")


def arms(case: Case, filters: Filters) -> dict[str, Callable[[Tensor], object]]:
    """What is timed."""

    def ours(policy: Policy) -> Callable[[Tensor], object]:
        rows = Rows([RowSettings(policy, filters, seed=seed) for seed in range(case.rows)])
        return lambda logits: step(logits, rows)[1].records()

    chain = processors(filters)
    return {
        "naive": lambda logits: naive(logits, filters),
        "hugging_face": lambda logits: hugging_face(logits, chain),
        "fixed": ours(Fixed(TEMPERATURE)),
        "target": ours(TargetEntropy(TARGET)),
    }


def measure(case: Case, turns: int) -> dict[str, list[float]]:
    """Milliseconds of each arm at each turn: the median of three calls in a row, each on other logits."""
    generator = torch.Generator().manual_seed(case.vocab + case.rows)
    batches = [torch.randn(case.rows, case.vocab, generator=generator) * SPREADS[case.spread] for _ in range(3)]
    filters = CHAINS[case.chain]
    check(batches[0], filters)
    times: dict[str, list[float]] = {}
    timed = arms(case, filters)
    for turn in range(turns + 1):
        for name, run in timed.items():
            calls = []
            for logits in batches:
                begin = time.perf_counter()
                run(logits)
                calls.append((time.perf_counter() - begin) * 1e3)
            if turn:  # the first turn warms up
                times.setdefault(name, []).append(statistics.median(calls))
    return times


def line(case: Case, times: dict[str, list[float]]) -> str:
    """A line of the table."""
    cells = [f"{case.vocab:,}", str(case.rows), case.spread, case.chain]
    cells += [spread(times[name]) for name in times]
    pairs = [("naive", "fixed"), ("hugging_face", "fixed"), ("target", "fixed")]
    cells += [ratio(times[one], times[other]) for one, other in pairs]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--vocab", type=int, nargs="+", default=[32_000, 151_936])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="ours as machine code")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    load = os.getloadavg()[0]
    names = ["naive ms", "Hugging Face ms", "fixed ms", "target_entropy ms"]
    ratios = ["naive / fixed", "Hugging Face / fixed", "target_entropy / fixed"]
    lines = [
        f"{datetime.date.today()}, {processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"ours {'' if given.compile else 'not '}compiled, {given.turns} turns; load before {load:.1f}. "
        "Median (middle half).",
        "",
        "| vocabulary | rows | logits | filters | " + " | ".join(names + ratios) + " |",
        "|" + "---|" * 11,
    ]
    print("\n".join(lines), flush=True)
    cases = [
        Case(vocab, rows, kind, chain)
        for vocab in given.vocab
        for rows in given.rows
        for kind in SPREADS
        for chain in CHAINS
    ]
    if given.compile:
        compile_sampler()
    with torch.inference_mode():
        for case in cases:
            lines.append(line(case, measure(case, given.turns)))
            print(lines[-1], flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
