"""Tiny random models of every family that is served, and some that are not, with a tokenizer of 4,096 tokens."""

import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from server.engine.loading import EMBEDDED

VOCAB = 4096
_BASE = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
_LLAMA = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    **_BASE,
}
# Small windows, so that they matter within a few tokens.
FAMILIES: dict[str, dict] = {
    "llama": _LLAMA,
    "qwen2": _LLAMA | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "qwen3": _LLAMA | {"head_dim": 32},
    "mistral": _LLAMA | {"sliding_window": 8},
    "gemma2": _LLAMA
    | {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 5.0},
    "gemma3_text": _LLAMA | {"head_dim": 16, "sliding_window": 8, "num_hidden_layers": 6, "sliding_window_pattern": 3},
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 256, **_BASE},
    "gpt_neox": {k: v for k, v in _LLAMA.items() if k != "num_key_value_heads"},
    "phi3": _LLAMA | {"sliding_window": 8},
    "opt": {
        "hidden_size": 64,
        "ffn_dim": 96,
        "word_embed_proj_dim": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        **_BASE,
    },
}
REFUSED: dict[str, tuple[dict, str]] = {
    "t5": (
        {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": VOCAB},
        "encoder-decoder",
    ),
    "mamba": ({"hidden_size": 32, "num_hidden_layers": 1, "state_size": 4, **_BASE}, "recurrent state"),
    "gpt_oss": (
        _LLAMA | {"head_dim": 16, "num_local_experts": 2, "num_experts_per_tok": 1, "num_hidden_layers": 2},
        "sinks",
    ),
}


def make(folder: Path, family: str, settings: dict) -> Path:
    """Write a random model with the embedded model's tokenizer into `folder / family`."""
    torch.manual_seed(len(family))
    config = AutoConfig.for_model(family, **settings)
    where = folder / family
    if config.is_encoder_decoder:
        config.save_pretrained(where)
    else:
        network = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():  # the usual initialisation is so small that every token would look alike
            for parameter in network.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, 0.15)
        network.generation_config.eos_token_id = 0
        network.save_pretrained(where)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED / name, where / name)
    return where
