"""The engine, in process and over gRPC, against Hugging Face `generate`: `make bench`.

Same weights, prompts and number of new tokens. Ours computes the full sampling info of every token and, over gRPC,
sends it; `generate` reports nothing, and has no target_entropy: there it is compared by its fixed temperature. Results
are compared before anything is timed. The table goes to benchmarks/results/engine.md. `--models 0.6B` tells what a step
of 32 rows over a vocabulary of 151,936 is made of, of ours alone.
"""

import argparse
import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks import models
from benchmarks.arm import Arm
from benchmarks.cases import Case
from benchmarks.contest import OURS, compete
from benchmarks.machine import occasion
from benchmarks.report import Report

RESULTS = Path(__file__).parent / "results" / "engine.md"
GRPC, HUGGING_FACE = "ours, gRPC", "Hugging Face"
ARMS = {OURS: "engine", GRPC: "grpc", HUGGING_FACE: "hugging_face"}
DTYPES = ("float32", "bfloat16")
MODELS = ("random", "embedded", "0.6B")


def cases(every: bool, chosen: Sequence[str]) -> list[Case]:
    """The cells of the chosen models: all, or those that say most in a few minutes."""
    large = [Case("0.6B", "bfloat16", 32, 32, True, 16)]
    return [case for case in (*_cells(every), *large) if case.model in chosen]


def _cells(every: bool) -> list[Case]:
    if not every:
        cells = [
            Case("random", dtype, n, 32, sampled, 64) for dtype in DTYPES for n in (1, 16) for sampled in (False, True)
        ]
        return [*cells, Case("embedded", "float32", 16, 32, True, 64)]
    shapes = [(streams, 32, 64) for streams in (1, 4, 16, 64)]
    shapes += [(streams, 2000, 48) for streams in (1, 4)]  # the embedded model's context is 2,048 tokens
    return [
        Case(model, dtype, streams, prompt, sampled, tokens)
        for model in ("random", "embedded")
        for dtype in DTYPES
        for streams, prompt, tokens in shapes
        for sampled in (False, True)
    ]


def start(name: str, model: str, dtype: str, compiled: bool) -> Arm:
    """An arm of this environment. compiled: ours."""
    options = ["--compile"] * (compiled and name in (ARMS[OURS], ARMS[GRPC]))
    return Arm([sys.executable, "-m", f"benchmarks.arms.{name}", str(models.find(model).absolute()), dtype, *options])


def add_compile(parser: argparse.ArgumentParser) -> None:
    """The option how ours is run."""
    told = "ours as the other engines are, compiled; otherwise as torch's operators"
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help=told)


def heading(given: argparse.Namespace) -> str:
    """The first line of a table."""
    how = f"ours {'' if given.compile else 'not '}compiled, {given.turns} turns"
    return f"{occasion()}, torch {torch.__version__}, {how}. Median (middle half) of the turns."


def check(arms: Mapping[str, Arm], model: str, dtype: str) -> None:
    """Over gRPC the same tokens as in process, drawn ones too; and in float32 the greedy ones of Hugging Face."""
    for setting in ("greedy", "fixed", "target"):
        job = Case(model, dtype, 4, 32, setting != "greedy", 32).job(0, setting)
        ours = arms[OURS].run(job)[0].tokens
        if arms[GRPC].run(job)[0].tokens != ours:
            raise SystemExit(f"{model}, {dtype}, {setting}: other tokens over gRPC")
        if setting == "greedy" and dtype == "float32" and arms[HUGGING_FACE].run(job)[0].tokens != ours:
            raise SystemExit(f"{model}: other tokens than Hugging Face's")


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--all", action="store_true", help="every cell: an hour")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS[:2])
    parser.add_argument("--streams", type=int, nargs="+", help="only cells of these many")
    add_compile(parser)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    head = heading(given)
    report = Report(given.out, head, (GRPC, HUGGING_FACE))
    cells = [case for case in cases(given.all, given.models) if not given.streams or case.streams in given.streams]
    for model, dtype in dict.fromkeys((case.model, case.dtype) for case in cells):
        chosen = {OURS: ARMS[OURS]} if model == "0.6B" else ARMS
        with contextlib.ExitStack() as stack:
            arms = {arm: stack.enter_context(start(name, model, dtype, given.compile)) for arm, name in chosen.items()}
            if chosen is ARMS:
                check(arms, model, dtype)
            for case in (case for case in cells if case[:2] == (model, dtype)):
                report.add(case, *compete(case, arms, [arm for arm in (OURS, GRPC) if arm in arms], given.turns))


if __name__ == "__main__":
    main()
