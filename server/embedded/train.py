"""Make the embedded model: a tiny language model of Python, from the text that every Python carries.

    python server/embedded/train.py --minutes 80             # corpus, tokenizer, training, export, evaluation
    python server/embedded/train.py --evaluate                # bits per byte of the model that is there

The corpus is the standard library of the Python that runs the script. Nothing is downloaded. One module in
twenty (by the hash of its name) is held out, together with its tests; `--evaluate` scores every byte of those.
"""

import argparse
import copy
import hashlib
import json
import math
import os
import re
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

HERE = Path(__file__).parent
END = "<|endoftext|>"
# Words keep their underscores and one leading space; a line break keeps the indent that follows it.
WORDS = r"\n+ *| ?[^\W\d]+|\d{1,3}| ?[^\s\w]+|\s+"
TABLES = re.compile(
    r"encodings/(cp|mac_|iso|koi|kz|hp|ptcp|tis|palmos|charmap|big5|gb|johab|euc|shift)|html/entities|_pydecimal_tables"
    r"|pydoc_data/|stringprep|lib2to3/tests/data|test/bad|badsyntax|test/test_unicode|unicodedata|_sysconfigdata"
    r"|tokenizedata|keycert|ensurepip/_bundled"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}# {{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}# assistant:\n{% endif %}"
)


TEST = re.compile(r"(^|/)(test|tests|idle_test)/")


@dataclass(frozen=True, slots=True)
class Module:
    """One module of the standard library: its path below the library's root, and its source."""

    name: str
    text: str
    held_out: bool

    @property
    def is_test(self) -> bool:
        """Whether it is a test, or a part of one."""
        return bool(TEST.search(self.name))


def held_out_names(names: Iterable[str]) -> frozenset[str]:
    """One module in twenty by the hash of its name, and the tests that carry the name of one of those."""
    names = list(names)
    modules = {n for n in names if not TEST.search(n) and hashlib.sha256(n.encode()).digest()[0] % 20 == 0}
    tested = set()
    for name in modules:
        parts = name.removesuffix(".py").removesuffix("/__init__").split("/")
        tested |= {parts[-1].lstrip("_"), "_".join(parts).lstrip("_")}

    def subject(name: str) -> str:
        return re.sub(r"^_?test_", "", name.rsplit("/", 1)[-1].removesuffix(".py")).lstrip("_")

    return frozenset(modules | {n for n in names if TEST.search(n) and subject(n) in tested})


def standard_library() -> list[Module]:
    """All modules of the running Python's standard library that are text rather than tables, sorted by name."""
    root = Path(sysconfig.get_paths()["stdlib"])
    texts = {}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if "site-packages" in name or TABLES.search(name):
            continue
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        digits = sum(character.isdigit() for character in text)
        if len(text) > 200 and digits < 0.15 * len(text):
            texts[name] = text
    held_out = held_out_names(texts)
    return [Module(name, text, name in held_out) for name, text in texts.items()]


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
        model_max_length=2048,
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
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        eos_token_id=end,
        bos_token_id=end,
        pad_token_id=None,
        initializer_range=0.02,
    )
    return Qwen3ForCausalLM(config)


class Batches:
    """Random windows of two token streams, library and tests; the share of tests falls as training goes on."""

    def __init__(self, library: np.ndarray, tests: np.ndarray, seed: int) -> None:
        self.streams = (library, tests)
        self.random = np.random.default_rng(seed)

    def draw(self, rows: int, length: int, progress: float) -> torch.Tensor:
        """Tokens `[rows, length + 1]`."""
        share = 0.55 - 0.3 * min(1.0, progress / 0.7)
        windows = []
        for is_test in self.random.random(rows) < share:
            stream = self.streams[int(is_test)]
            start = self.random.integers(0, len(stream) - length - 1)
            windows.append(stream[start : start + length + 1])
        return torch.from_numpy(np.stack(windows).astype(np.int64))


def optimizers(model: Qwen3ForCausalLM, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def schedule(progress: float) -> float:
    """Share of the full learning rate: a short warm-up, a plateau, then a line down to nothing."""
    return min(1.0, progress / 0.02, (1.0 - progress) / 0.6)


def train(
    model: Qwen3ForCausalLM,
    batches: Batches,
    seconds: float,
    tokens_per_step: int,
    rate: float,
    save: Callable[[Qwen3ForCausalLM], None],
) -> int:
    """Train for `seconds` of wall clock; the last fifth sees the full context. Returns the number of tokens seen."""
    steppers = optimizers(model, rate)
    start, saved, seen, step, smooth = time.monotonic(), 0.0, 0, 0, None
    model.train()
    while (progress := (time.monotonic() - start) / seconds) < 1.0:
        length = 512 if progress < 0.5 else 1024 if progress < 0.85 else 2048
        batch = batches.draw(tokens_per_step // length, length, progress)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=batch[:, :-1]).logits
        loss = F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper in steppers:
            for group in stepper.param_groups:
                group["lr"] = rate * schedule(progress)
            stepper.step()
            stepper.zero_grad(set_to_none=True)
        seen, step = seen + tokens_per_step, step + 1
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        elapsed = time.monotonic() - start
        if step % 25 == 0:
            print(f"{elapsed:6.0f} s  step {step}  loss {smooth:.4f}  {seen / elapsed:.0f} tokens/s", flush=True)
        if elapsed - saved > 480:
            saved = elapsed
            save(model)
    return seen


@torch.inference_mode()
def bits_per_byte(
    model: torch.nn.Module, encode: Callable[[str], list[int]], texts: list[str], end: int, length: int = 2048
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


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=80.0, help="wall clock for training")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the model")
    parser.add_argument("--vocabulary", type=int, default=4096, help="number of tokens")
    parser.add_argument("--tokens-per-step", type=int, default=8192)
    parser.add_argument("--rate", type=float, default=4e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--evaluate", action="store_true", help="only measure the model in --out")
    options = parser.parse_args()
    if not options.evaluate:
        torch.manual_seed(options.seed)
        modules = standard_library()
        kept = [m for m in modules if not m.held_out]
        held_out = len(modules) - len(kept)
        print(f"{len(modules)} modules, {held_out} held out, {sum(len(m.text) for m in kept):,} characters")
        tokenizer = train_tokenizer((m.text for m in kept for _ in range(1 if m.is_test else 3)), options.vocabulary)
        end = tokenizer.eos_token_id

        def stream(tests: bool) -> np.ndarray:
            chosen = [m for m in kept if m.is_test == tests]
            np.random.default_rng(options.seed).shuffle(chosen)
            ids = (tokenizer(m.text)["input_ids"] for m in chosen)
            return np.array([token for module in ids for token in (end, *module)], dtype=np.uint16)

        library, tests = stream(False), stream(True)
        text = sum(len(m.text.encode()) for m in kept if not m.is_test)
        print(
            f"{len(library):,} library tokens ({text / len(library):.2f} bytes each), {len(tests):,} test tokens",
            flush=True,
        )
        model = make_model(len(tokenizer), end)
        print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
        batches = Batches(library, tests, options.seed)
        options.out.mkdir(parents=True, exist_ok=True)
        seen = train(
            model,
            batches,
            60 * options.minutes,
            options.tokens_per_step,
            options.rate,
            lambda m: export(m, tokenizer, options.out),
        )
        print(f"{seen:,} tokens seen")
        export(model, tokenizer, options.out)
    evaluate(options.out)


if __name__ == "__main__":
    main()
