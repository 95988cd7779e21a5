"""A Llama or a Qwen 3 of Hugging Face's as GGUF, for llama.cpp. Runs in llama.cpp's environment."""

import json
from pathlib import Path

import gguf
import numpy
from safetensors.numpy import load_file

_TYPES = {"float32": gguf.GGMLQuantizationType.F32, "bfloat16": gguf.GGMLQuantizationType.BF16}
_OF_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}
_OTHERS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def interleaved(weight: numpy.ndarray, heads: int) -> numpy.ndarray:
    """Rows of a query or key projection in llama.cpp's order: its rotation of a Llama turns neighbours, where Hugging
    Face's turns the two halves of a head."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(weight.shape)


def convert(folder: Path, file: Path, dtype: str) -> None:
    """Write the model in `folder` to `file`. It has no vocabulary: prompts are token ids."""
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    writer = gguf.GGUFWriter(file, config["model_type"])
    _describe(writer, config)
    names = {name: f"{theirs}.weight" for name, theirs in _OTHERS.items()}
    for layer in range(config["num_hidden_layers"]):
        names |= {f"blk.{layer}.{name}": f"model.layers.{layer}.{theirs}.weight" for name, theirs in _OF_LAYER.items()}
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for name, theirs in names.items():
        if theirs in weights:  # a tied head is the embedding; only Qwen 3 norms queries and keys
            weight, part = weights[theirs], name.rpartition(".")[2]
            turned = part in heads and config["model_type"] == "llama"
            _add(writer, name, interleaved(weight, heads[part]) if turned else weight, dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: gguf.GGUFWriter, config: dict) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")


def _add(writer: gguf.GGUFWriter, name: str, weight: numpy.ndarray, dtype: str) -> None:
    kind = _TYPES[dtype] if weight.ndim > 1 else _TYPES["float32"]
    data = gguf.quants.quantize(numpy.ascontiguousarray(weight), kind)
    writer.add_tensor(f"{name}.weight", data, raw_dtype=kind)
