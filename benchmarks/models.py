"""The models that are timed: a random Llama of 125 M parameters, made once and always with the same weights, and the
embedded model. A random model's logits are flat, the worst case for top_p; the embedded one's are a trained model's."""

import os
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from server.engine.loading import EMBEDDED

FOLDER = Path("build/bench")
LLAMA = {
    "vocab_size": 32_000,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def find(name: str) -> Path:
    """Folder of the model "random" (125 M) or "embedded". The random one is made on first use."""
    if name == "embedded":
        return EMBEDDED
    folder = FOLDER / name
    if not folder.exists():
        making = folder.with_name(f"{name}-{os.getpid()}")
        make(making, LLAMA)
        making.rename(folder)
    return folder


def make(folder: Path, settings: dict) -> None:
    """Write a random Llama, float32, with a tokenizer of as many tokens."""
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**settings)).save_pretrained(folder)
    tokenizer(settings["vocab_size"]).save_pretrained(folder)


def tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: an end, the bytes, and as many pairs of bytes as there is room for."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(one, two) for one in alphabet for two in alphabet][: max(0, vocab - 1 - len(alphabet))]
    tokens = ["<end>", *alphabet, *(one + two for one, two in pairs)][:vocab]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<end>", eos_token="<end>", pad_token="<end>")
