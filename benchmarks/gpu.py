"""The decode step on a GPU against what its memory allows: `make bench-gpu`, within eight minutes, without a network.

Random-weight models of the shapes of Qwen3-0.6B and Llama-3-8B are made on the device, in bfloat16. Results are
checked before anything is timed: the sampler's kernels against plain torch on the CPU, captured steps against the plain
way. A step is forward, target_entropy, top_p 0.9, draw and full sampling info, read on the host one step later. Its
bound is the time to read weights and KV memory once, at the measured bandwidth of reading. The table goes to
benchmarks/results/gpu.md.
"""

import argparse
import datetime
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

import adaptive
from adaptive import Filters, Fixed, Rows, RowSettings, TargetEntropy
from adaptive.accelerator import replayed_step
from server.engine.model import Model, Piece

PROMPT = 32
RESULTS = Path(__file__).parent / "results" / "gpu.md"
EVERYTHING = (TargetEntropy(2.0), Filters(top_p=0.9))


class Shape(NamedTuple):
    """A model to be made. aim: the wanted share of the bound at one row, if one is named."""

    name: str
    family: str
    config: dict[str, Any]
    aim: float


SHAPES = (
    Shape(
        "0.6 B", "qwen3",
        {
            "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
            "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936, "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
        },
        0.60,
    ),
    Shape(
        "8 B", "llama",
        {
            "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 8, "vocab_size": 128_256, "max_position_embeddings": 4096,
            "tie_word_embeddings": False,
        },
        0.85,
    ),
)  # fmt: skip


def make(shape: Shape, device: torch.device, dtype: torch.dtype) -> Model:
    """The model, with random weights that were made on the device."""
    config = AutoConfig.for_model(shape.family, **shape.config)
    with torch.device(device):
        network = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model = Model(shape.name, network.eval().requires_grad_(False), shape.config["max_position_embeddings"])
    expected = model.reference()
    model.adopt()
    model.check(expected)
    return model


def wait(device: torch.device) -> None:
    """Until the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], object], device: torch.device, calls: int, turns: int = 5) -> float:
    """Of one call: the median over turns of several calls in a row."""
    run()
    taken = []
    for _ in range(turns):
        wait(device)
        begin = time.perf_counter()
        for _ in range(calls):
            run()
        wait(device)
        taken.append((time.perf_counter() - begin) / calls)
    return statistics.median(taken)


def bandwidth(device: torch.device, size: int) -> float:
    """Bytes a second of reading `size` bytes on the device, all of which are summed up. (A copy there, by way of the
    driver, was seen to move only 2.8 TB/s where this reads 4.3.)"""
    source = torch.rand(size // 4, device=device)
    return size / seconds(source.sum, device, 10)


def bytes_read(model: Model, rows: int, length: int) -> int:
    """What a step cannot but read: all weights but an input table of its own, and the KV memory of the rows."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.network.parameters())
    table = model.network.get_input_embeddings().weight
    if table is not model.network.get_output_embeddings().weight:
        weights -= table.numel() * table.element_size()
    return weights + rows * length * model.bytes_per_token


class Stream:
    """Generations of one length that are decoded together, as the engine does it, everything on."""

    def __init__(self, model: Model, rows: int, steps: int) -> None:
        self.model, self.length = model, PROMPT
        self.caches = [model.cache(PROMPT + steps) for _ in range(rows)]
        nothing = torch.zeros(0, dtype=torch.int64, device=model.device)
        generator = torch.Generator().manual_seed(0)
        for cache in self.caches:
            prompt = torch.randint(0, model.vocab_size, (PROMPT,), generator=generator).tolist()
            model.forward([Piece(cache, 0, prompt, 0)], nothing)
        self.last = torch.arange(rows, device=model.device)
        self.rows = Rows([RowSettings(*EVERYTHING, seed=seed) for seed in range(rows)], model.device)
        self.sample = replayed_step(model.device) or adaptive.step
        self.before: adaptive.Report | None = None

    def step(self) -> list[adaptive.SamplingInfo]:
        """One token for each; the records of the step before, none at first."""
        pieces = [Piece(cache, self.length, None) for cache in self.caches]
        logits = self.model.forward(pieces, self.last)
        self.last, report = self.sample(logits, self.rows)
        report.start_copy()
        records = [info for info, _ in self.before.records()] if self.before is not None else []
        self.before = report
        self.length += 1
        return records


def decode(model: Model, rows: int, warm: int, steps: int) -> tuple[float, int]:
    """(seconds of a step, mean length of the rows meanwhile)."""
    stream = Stream(model, rows, warm + steps)
    for _ in range(warm):
        stream.step()
    wait(model.device)
    begin = time.perf_counter()
    for _ in range(steps):
        records = stream.step()
    wait(model.device)
    if any(info.fault for info in records):
        raise SystemExit(f"{model.name}: the steps that were timed went wrong: {records[0]}")
    return (time.perf_counter() - begin) / steps, PROMPT + warm + steps // 2


def sort_based(logits: Tensor) -> Tensor:
    """What is usual: temperature, a sort for top_p, a draw; no info."""
    ranked, order = (logits / 0.8).sort(-1, descending=True)
    p = ranked.softmax(-1)
    p = p.masked_fill(p.cumsum(-1) - p > 0.9, 0.0)
    return order.gather(-1, torch.multinomial(p, 1))


def check_sampler(logits: Tensor, device: torch.device) -> None:
    """SystemExit unless a step on the device gives what it gives on the CPU, but for a token at the edge of top_p that
    float32 cannot place."""
    settings = [RowSettings(*EVERYTHING, seed=seed) for seed in range(len(logits))]
    settings[0] = RowSettings(Fixed(0.8), Filters(top_k=50, top_p=0.9, min_p=0.02))
    here = adaptive.step(logits, Rows(settings))[1].records()
    there = adaptive.step(logits.to(device), Rows(settings, device))[1].records()
    for (one, _), (other, _) in zip(here, there, strict=True):
        near = all(
            abs(getattr(one, name) - getattr(other, name)) < 1e-3
            for name in ("original_entropy", "final_entropy", "temperature", "kept_mass", "varentropy")
        )
        edge = 1 + one.effective_vocab_size // 1000
        if not near or abs(one.effective_vocab_size - other.effective_vocab_size) > edge:
            raise SystemExit(f"the sampler differs from the CPU's: {other} instead of {one}")


def sampler_line(device: torch.device, rows: int, vocab: int, spread: float, speed: float, calls: int) -> str:
    """A line of the sampler's table."""
    logits = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(0)) * spread
    check_sampler(logits[: min(rows, 4)], device)
    logits = logits.to(device)
    batch = Rows([RowSettings(*EVERYTHING, seed=seed) for seed in range(rows)], device)
    sample = replayed_step(device) or adaptive.step
    ours = seconds(lambda: sample(logits, batch), device, calls)
    sorting = seconds(lambda: sort_based(logits), device, calls)
    once = logits.numel() * logits.element_size() / speed
    cells = [f"{rows}", f"{vocab:,}", f"{spread:g}", *(f"{1e6 * t:.0f}" for t in (once, ours, sorting))]
    return "| " + " | ".join([*cells, f"{ours / once:.1f}", f"{sorting / ours:.1f}"]) + " |"


def model_lines(model: Model, shape: Shape, batches: tuple[int, ...], steps: int, speed: float) -> list[str]:
    """Lines of the models' table."""
    lines, first = [], 0.0
    for rows in batches:
        taken, length = decode(model, rows, 16, steps)
        rate = rows / taken
        first = first or rate
        share = bytes_read(model, rows, length) / speed / taken
        aim = f"{shape.aim:.0%}" if rows == 1 else "20 x" if rows == 64 else ""
        cells = [
            shape.name,
            str(rows),
            f"{rate:,.0f}",
            f"{1e3 * taken:.2f}",
            f"{share:.0%}",
            f"{rate / first:.1f}",
            aim,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


MODELS_HEAD = [
    "| model | rows | tokens/s | ms a step | share of the bound | against one row | aim |",
    "|" + "---|" * 7,
]
SAMPLER_HEAD = [
    "| rows | vocabulary | spread | logits read once, µs | sampler, µs | sort-based, µs | sampler / read (aim 3) "
    "| sort-based / sampler (aim 10) |",
    "|" + "---|" * 8,
]


def measure(device: torch.device, shapes: tuple[Shape, ...], steps: int, out: list[str]) -> None:
    """Add all lines to `out` as they come, and print them."""
    from benchmarks import attention  # Triton is where a GPU is
    from server.engine import graphs

    def tell(*lines: str) -> None:
        out.extend(lines)
        print("\n".join(lines), flush=True)

    speed = bandwidth(device, 1 << 31)
    tell(
        f"{datetime.date.today()}, {torch.cuda.get_device_name(device)}, torch {torch.__version__}, "
        f"reading {speed / 1e12:.2f} TB/s. A step: forward, target_entropy 2.0, top_p 0.9, draw, info.",
        "", *SAMPLER_HEAD,
    )  # fmt: skip
    for spread in (4.0, 1.0):
        tell(sampler_line(device, 64, 128_256, spread, speed, 50))
    tell("", *attention.HEAD)
    for rows, length in ((1, 256), (1, 2048), (64, 256), (64, 2048)):
        tell(attention.line(device, torch.bfloat16, rows, length, speed, 20))
    tell("", *MODELS_HEAD)
    for shape in shapes:
        model = make(shape, device, torch.bfloat16)
        model.graphs = graphs.build(model)
        if model.graphs is None:
            tell(f"| {shape.name} without CUDA graphs: see the log |||||||")
        tell(*model_lines(model, shape, (1, 64), steps, speed))
        del model
        gc.collect()
        torch.cuda.empty_cache()


def main() -> None:
    """Check, measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("bench-gpu needs a CUDA device, and this machine has none; nothing was measured.")
    lines: list[str] = []
    with torch.inference_mode():
        measure(torch.device("cuda:0"), SHAPES, given.steps, lines)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
