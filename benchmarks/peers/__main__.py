"""Other engines against ours: `make bench-peers`.

Same weights, prompts and number of new tokens, in one run. Ours computes the full sampling info of every token; the
others report tokens alone, and none has target_entropy: there they are compared by their fixed temperature. The table
goes to benchmarks/results/peers.md. A peer that cannot be had is told as absent, with the reason.
"""

import argparse
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks import models
from benchmarks.arm import Arm, ArmFailed
from benchmarks.cases import Case, agreement
from benchmarks.contest import OURS, compete
from benchmarks.engine import DTYPES, HUGGING_FACE, add_compile, heading, start
from benchmarks.peers.environments import LLAMA, OPENVINO, VLLM, Absent, Environment, export_openvino
from benchmarks.report import Report

RESULTS = Path(__file__).parents[1] / "results" / "peers.md"


class Peer(NamedTuple):
    """Another engine. prepare: what its model needs besides."""

    worker: str
    environment: Environment
    prepare: Callable[[Path], None] = lambda model: None

    def start(self, model: Path, dtype: str) -> Arm:
        """A running arm. Absent or ArmFailed if there can be none."""
        self.environment.make()
        self.prepare(model)
        return Arm([str(self.environment.python), "-m", f"benchmarks.peers.{self.worker}", str(model), dtype])


PEERS = {
    "llama.cpp": Peer("llama", LLAMA),
    "vLLM": Peer("vllm_cpu", VLLM),
    "OpenVINO": Peer("openvino", OPENVINO, export_openvino),
}


def cases(every: bool) -> list[Case]:
    """The cells: all, or those that say most."""
    shapes = [(1, 32, 64), (16, 32, 64)]
    shapes += [(4, 32, 64), (64, 32, 64), (1, 2000, 48)] if every else []
    cells = [
        Case(model, dtype, streams, prompt, sampled, tokens)
        for model in ("random", "embedded")
        for dtype in DTYPES
        for streams, prompt, tokens in shapes
        for sampled in (False, True)
    ]
    return [case for case in cells if every or case.model == "random" or (case.dtype == "float32" and case.sampled)]


def check(arms: Mapping[str, Arm], model: str) -> list[str]:
    """How many of the greedy tokens are ours, in float32; past a stream's first other token texts differ anyhow."""
    job = Case(model, "float32", 16, 32, False, 32).job(0, "greedy")
    ours = arms[OURS].run(job)[0].tokens
    others = {name: arm for name, arm in arms.items() if name != OURS}
    shares = {name: 100 * agreement(ours, arm.run(job)[0].tokens) for name, arm in others.items()}
    return [
        f"* {name} ({arm.about}), {model} model: {shares[name]:.1f} % of its greedy tokens are ours, up to a stream's "
        "first other one"
        for name, arm in others.items()
    ]


def starts(
    stack: contextlib.ExitStack, wanted: list[str], model: str, dtype: str, compiled: bool, notes: list[str]
) -> dict[str, Arm]:
    """Running arms: ours, compiled or not, Hugging Face, and the peers that are to be had."""
    arms = {OURS: start("engine", model, dtype, compiled), HUGGING_FACE: start("hugging_face", model, dtype, False)}
    for arm in arms.values():
        stack.enter_context(arm)
    for name in wanted:
        try:
            arms[name] = stack.enter_context(PEERS[name].start(models.find(model).absolute(), dtype))
        except (Absent, ArmFailed) as reason:
            notes.append(f"* {name} is absent, {model} model in {dtype}: {reason}")
    return arms


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--all", action="store_true", help="every cell")
    parser.add_argument("--models", nargs="+", choices=("random", "embedded"), default=["random", "embedded"])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=[*PEERS])
    parser.add_argument("--streams", type=int, nargs="+", help="only cells of these many")
    add_compile(parser)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    report = Report(given.out, heading(given), [HUGGING_FACE, *given.peers])
    cells = [case for case in cases(given.all) if case.model in given.models]
    cells = [case for case in cells if not given.streams or case.streams in given.streams]
    for model, dtype in dict.fromkeys(case[:2] for case in cells):
        with contextlib.ExitStack() as stack:
            arms = starts(stack, given.peers, model, dtype, given.compile, report.notes)
            report.notes.extend(check(arms, model) if dtype == "float32" else ())
            print(*report.notes, sep="\n", flush=True)
            for case in (case for case in cells if case[:2] == (model, dtype)):
                report.add(case, *compete(case, arms, [OURS], given.turns))


if __name__ == "__main__":
    main()
