"""Make the embedded model: a tiny language model of Python, from the text that every Python carries.

    python -m server.embedded.train --minutes 80              # corpus, tokenizer, training, export, evaluation
    python -m server.embedded.train --resume --minutes 15     # train the model that is there for longer
    python -m server.embedded.train --evaluate                # bits per byte of the model that is there

The corpus is the standard library of the Python that runs the script. Nothing is downloaded. One module in
twenty (by the hash of its name) is held out, together with its tests; `--evaluate` scores every byte of those
modules. Training runs on the CPU, compiled where there is a C++ compiler.
"""

import argparse
import copy
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from server.embedded.corpus import Module, standard_library
from server.embedded.loss import Loss, fastest_loss

HERE = Path(__file__).parent
END = "<|endoftext|>"
CONTEXT = 2048  # tokens
FORWARD = 2048  # tokens of one forward and backward pass; a step adds up the gradients of several
SAVE_EVERY = 480.0  # seconds
# Words keep their underscores and one leading space; a line break keeps the indent that follows it.
WORDS = r"\n+ *| ?[^\W\d]+|\d{1,3}| ?[^\s\w]+|\s+"
CHAT_TEMPLATE = (
    "{% for message in messages %}# {{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}# assistant:\n{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Phase:
    """How one stretch of training goes. Shares of the stretch are shares of its wall clock, from 0 to 1."""

    rate: float  # highest learning rate
    warm_up: float  # share of the stretch in which the rate rises to its highest
    decay: float  # share of the stretch, its last, in which the rate falls to nothing
    contexts: tuple[tuple[float, int], ...]  # (until this share of the stretch, tokens of context)
    tests: tuple[float, float]  # share of rows that are tests: at the start, and after 0.7 of the stretch
    starts: float  # share of rows that begin where a module begins
    dropout: float
    weight_decay: float

    def learning_rate(self, progress: float) -> float:
        """The learning rate at this share of the stretch: a rise, a plateau, then a line down to nothing."""
        return self.rate * min(1.0, progress / self.warm_up, (1.0 - progress) / self.decay)

    def context(self, progress: float) -> int:
        """Tokens of context at this share of the stretch."""
        return next((length for until, length in self.contexts if progress < until), CONTEXT)

    def test_share(self, progress: float) -> float:
        """Share of rows that are tests at this share of the stretch."""
        first, last = self.tests
        return first + (last - first) * min(1.0, progress / 0.7)


FIRST = Phase(
    4e-3, 0.02, 0.6, ((0.5, 512), (0.85, 1024)), tests=(0.55, 0.25), starts=0.0, dropout=0.0, weight_decay=0.1
)
NEXT = Phase(1.2e-3, 0.03, 0.97, (), tests=(0.25, 0.2), starts=0.15, dropout=0.1, weight_decay=0.2)


def train_tokenizer(texts: Iterator[str], size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of `size` tokens; every byte has a token, so text survives a round trip unchanged."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, special_tokens=[END], initial_alphabet=alphabet, min_frequency=2)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        bos_token=END,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
    )


def make_model(tokens: int, end: int) -> Qwen3ForCausalLM:
    """A small Qwen3: tied embeddings, normalised queries and keys, two key-value heads."""
    config = Qwen3Config(
        vocab_size=tokens,
        hidden_size=320,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        eos_token_id=end,
        bos_token_id=end,
        pad_token_id=None,
        initializer_range=0.02,
    )
    return Qwen3ForCausalLM(config)


class Batches:
    """Random windows of two token streams, library and tests."""

    def __init__(self, library: np.ndarray, tests: np.ndarray, end: int, seed: int) -> None:
        self.streams = (library, tests)
        self.module_starts = tuple(np.flatnonzero(stream == end) for stream in self.streams)
        self.random = np.random.default_rng(seed)

    def draw(self, rows: int, length: int, tests: float, starts: float) -> torch.Tensor:
        """Tokens `[rows, length + 1]`; `tests` and `starts` are shares of the rows, see `Phase`."""
        windows = [self.window(length, tests, starts) for _ in range(rows)]
        return torch.from_numpy(np.stack(windows).astype(np.int64))

    def window(self, length: int, tests: float, starts: float) -> np.ndarray:
        """Tokens `[length + 1]`, from anywhere or from the start of a module on."""
        which = int(self.random.random() < tests)
        stream, last = self.streams[which], len(self.streams[which]) - length - 1
        start = int(self.random.integers(0, last))
        if self.random.random() < starts:
            start = min(last, int(self.random.choice(self.module_starts[which])))
        return stream[start : start + length + 1]


def token_stream(modules: Iterable[Module], tokenizer: PreTrainedTokenizerFast, seed: int) -> np.ndarray:
    """The tokens of `modules` in random order, each module after an end-of-text token."""
    chosen = list(modules)
    np.random.default_rng(seed).shuffle(chosen)
    ids = (tokenizer(m.text)["input_ids"] for m in chosen)
    return np.array([token for module in ids for token in (tokenizer.eos_token_id, *module)], dtype=np.uint16)


def optimizers(model: Qwen3ForCausalLM, weight_decay: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def descend(model: Qwen3ForCausalLM, steppers: list[torch.optim.Optimizer], rate: float) -> None:
    """One step of the optimizers at this learning rate, with the gradients clipped to norm 1 and then cleared."""
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for stepper in steppers:
        for group in stepper.param_groups:
            group["lr"] = rate
        stepper.step()
        stepper.zero_grad(set_to_none=True)


def gradients(model: Qwen3ForCausalLM, loss_of: Loss, batch: torch.Tensor, dropout: float) -> float:
    """Add the gradients of the mean loss of `batch [rows, length + 1]`; returns that loss in nats per token."""
    parts = batch.split(max(1, FORWARD // (batch.shape[1] - 1)))
    total = 0.0
    for part in parts:
        loss = loss_of(model, part, dropout) * (len(part) / len(batch))
        loss.backward()
        total += loss.item()
    return total


def train(
    model: Qwen3ForCausalLM,
    batches: Batches,
    phase: Phase,
    seconds: float,
    tokens_per_step: int,
    save: Callable[[Qwen3ForCausalLM], None],
) -> int:
    """Train for `seconds` of wall clock, and `save` now and then. Returns the number of tokens seen."""
    loss_of, steppers = fastest_loss(model.config), optimizers(model, phase.weight_decay)
    model.train()
    for length in {phase.context(progress) for progress in np.linspace(0.0, 0.999, 1000)}:  # compile before the clock
        gradients(model, loss_of, batches.draw(max(1, FORWARD // length), length, 0.0, 0.0), phase.dropout)
    model.zero_grad()
    start, saved, seen, step, smooth = time.monotonic(), 0.0, 0, 0, math.nan
    while (progress := (time.monotonic() - start) / seconds) < 1.0:
        length = phase.context(progress)
        batch = batches.draw(tokens_per_step // length, length, phase.test_share(progress), phase.starts)
        loss = gradients(model, loss_of, batch, phase.dropout)
        descend(model, steppers, phase.learning_rate(progress))
        seen, step = seen + tokens_per_step, step + 1
        smooth = loss if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss
        elapsed = time.monotonic() - start
        if step % 25 == 0:
            print(f"{elapsed:6.0f} s  step {step}  loss {smooth:.4f}  {seen / elapsed:.0f} tokens/s", flush=True)
        if elapsed - saved > SAVE_EVERY:
            saved = elapsed
            save(model)
    return seen


@torch.inference_mode()
def bits_per_byte(
    model: torch.nn.Module, encode: Callable[[str], list[int]], texts: list[str], end: int, length: int = CONTEXT
) -> tuple[float, float]:
    """(bits per byte, nats per token) over every byte of `texts`; windows overlap by half so that context is real."""
    model.eval()
    nats, tokens, size = 0.0, 0, 0
    for text in texts:
        ids = torch.tensor([end, *encode(text)])
        size += len(text.encode())
        first = 0
        while first < len(ids) - 1:
            begin = max(0, first - length // 2)
            window = ids[begin : begin + length]
            logits = model(input_ids=window[None]).logits[0].float()
            loss = F.cross_entropy(logits[first - begin : -1], window[first - begin + 1 :], reduction="sum")
            nats, tokens = nats + loss.item(), tokens + len(window) - 1 - (first - begin)
            first = begin + len(window) - 1
    return nats / math.log(2) / size, nats / tokens


def export(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the bf16 weights and the tokenizer; each file is replaced whole."""
    scratch = folder / ".new"
    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    for path in scratch.iterdir():
        os.replace(path, folder / path.name)
    scratch.rmdir()


def evaluate(folder: Path) -> None:
    """Print bits per byte of the exported model, computed in float32, on the held-out modules."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [m.text for m in standard_library() if m.held_out and not m.is_test]
    broken = sum(tokenizer.decode(tokenizer(t)["input_ids"]) != t for t in texts)
    bits, nats = bits_per_byte(model, lambda t: tokenizer(t)["input_ids"], texts, tokenizer.eos_token_id)
    result = {
        "held_out_modules": len(texts),
        "held_out_bytes": sum(len(t.encode()) for t in texts),
        "bits_per_byte": round(bits, 4),
        "nats_per_token": round(nats, 4),
        "round_trip_failures": broken,
    }
    print(json.dumps(result, indent=1))


def build(options: argparse.Namespace, modules: list[Module]) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
    """A new model and its tokenizer, or with `--resume` the ones in `--out`."""
    if options.resume:
        model = AutoModelForCausalLM.from_pretrained(options.out, dtype=torch.float32)
        return model, AutoTokenizer.from_pretrained(options.out)
    weighted = (m.text for m in modules for _ in range(1 if m.is_test else 3))
    tokenizer = train_tokenizer(weighted, options.vocabulary)
    return make_model(len(tokenizer), tokenizer.eos_token_id), tokenizer


def make(options: argparse.Namespace) -> None:
    """Train as the command line says, and export."""
    torch.manual_seed(options.seed)
    modules = standard_library()
    kept = [m for m in modules if not m.held_out]
    print(f"{len(modules)} modules, {len(modules) - len(kept)} held out, {sum(len(m.text) for m in kept):,} characters")
    model, tokenizer = build(options, kept)
    library = token_stream((m for m in kept if not m.is_test), tokenizer, options.seed)
    tests = token_stream((m for m in kept if m.is_test), tokenizer, options.seed)
    print(f"{len(library):,} library tokens, {len(tests):,} test tokens")
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    phase = NEXT if options.resume else FIRST
    batches = Batches(library, tests, tokenizer.eos_token_id, options.seed + options.resume)

    def save(trained: Qwen3ForCausalLM) -> None:
        export(trained, tokenizer, options.out)

    seen = train(model, batches, phase, 60 * options.minutes, options.tokens_per_step, save)
    print(f"{seen:,} tokens seen")
    save(model)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=80.0, help="wall clock for training")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the model")
    parser.add_argument("--vocabulary", type=int, default=4096, help="number of tokens of a new model")
    parser.add_argument("--tokens-per-step", type=int, default=8192)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--resume", action="store_true", help="train the model in --out for longer")
    parser.add_argument("--evaluate", action="store_true", help="only measure the model in --out")
    options = parser.parse_args()
    if not options.evaluate:
        make(options)
    evaluate(options.out)


if __name__ == "__main__":
    main()
