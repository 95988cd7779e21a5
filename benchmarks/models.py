"""The models that are timed: a random Llama of 125 M parameters, a random Qwen of 0.6 B with its large vocabulary, each
made once and always with the same weights, and the embedded model. A random model's logits are flat, the worst case for
top_p; the embedded one's are a trained model's."""

import os
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from server.engine.loading import EMBEDDED

FOLDER = Path("build/bench")
_IDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
RANDOM = {
    "random": LlamaConfig(
        vocab_size=32_000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        **_IDS,
    ),
    "0.6B": Qwen3Config(
        vocab_size=151_936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        **_IDS,
    ),
}


def find(name: str) -> Path:
    """Folder of the model "random" (125 M), "0.6B" or "embedded", in float32. It is made on first use."""
    folder = FOLDER / name
    if not folder.exists():
        making = folder.with_name(f"{name}-{os.getpid()}")
        if name == "embedded":
            copy(EMBEDDED, making)
        else:
            make(making, RANDOM[name])
        making.rename(folder)
    return folder


def copy(source: Path, folder: Path) -> None:
    """Write a model again, in float32: beside it others put the forms that they want, and not all of them read
    bfloat16."""
    AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def make(folder: Path, config: PreTrainedConfig) -> None:
    """Write a random model, with a tokenizer of as many tokens or all that it can have. Its weights are numbers that
    bfloat16 holds, as nearly all checkpoints' are, and written in float32."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).bfloat16().float().save_pretrained(folder)
    tokenizer(config.vocab_size).save_pretrained(folder)


def tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: an end, the bytes, and as many pairs of bytes as there is room for."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(one, two) for one in alphabet for two in alphabet][: max(0, vocab - 1 - len(alphabet))]
    tokens = ["<end>", *alphabet, *(one + two for one, two in pairs)][:vocab]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<end>", eos_token="<end>", pad_token="<end>")
