"""The loss of the embedded model in training, compiled where there is a C++ compiler."""

import os
import shutil
from collections.abc import Callable

import torch
import torch.nn.functional as F
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

Tables = tuple[torch.Tensor, torch.Tensor]  # cosines and sines `[length, size]`
Loss = Callable[[Qwen3ForCausalLM, torch.Tensor, float], torch.Tensor]  # model, batch, dropout


def rms_norm(values: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Root-mean-square normalisation of the last dimension, in float32."""
    values = values.float()
    return values * torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + epsilon) * weight


def rotary(length: int, size: int, base: float) -> Tables:
    """Cosines and sines of the rotary position embedding, each `[length, size]`."""
    angles = torch.outer(torch.arange(length).float(), base ** -(torch.arange(0, size, 2).float() / size))
    angles = torch.cat((angles, angles), -1)
    return angles.cos(), angles.sin()


def turn(heads: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Turn queries or keys `[..., length, size]` by their positions."""
    left, right = heads.chunk(2, -1)
    return heads * cosines + torch.cat((-right, left), -1) * sines


def attend(layer: Qwen3Attention, hidden: torch.Tensor, tables: Tables, config: Qwen3Config) -> torch.Tensor:
    """Causal self-attention of bf16 `hidden [rows, length, width]`, before the output projection's residual."""
    rows, length, _ = hidden.shape
    size, heads, shared = config.head_dim, config.num_attention_heads, config.num_key_value_heads
    cosines, sines = tables
    weights = torch.cat((layer.q_proj.weight, layer.k_proj.weight, layer.v_proj.weight)).to(torch.bfloat16)
    parts = F.linear(hidden, weights).split((heads * size, shared * size, shared * size), -1)
    query, key, value = (part.view(rows, length, -1, size).transpose(1, 2) for part in parts)
    query = turn(rms_norm(query, layer.q_norm.weight, config.rms_norm_eps), cosines, sines).to(torch.bfloat16)
    key = turn(rms_norm(key, layer.k_norm.weight, config.rms_norm_eps), cosines, sines).to(torch.bfloat16)
    key, value = (part.repeat_interleave(heads // shared, 1) for part in (key, value))
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    return F.linear(mixed.transpose(1, 2).reshape(rows, length, -1), layer.o_proj.weight.to(torch.bfloat16))


def lean_loss(model: Qwen3ForCausalLM, batch: torch.Tensor, tables: Tables, masks: torch.Tensor | None) -> torch.Tensor:
    """Mean nats per token of `batch [rows, length + 1]`: the stock module's arithmetic, written to be compiled.

    `masks [1 + 2 * layers, rows, length, width]` multiply the embedding and what each half layer adds.
    """
    body, config, half = model.model, model.config, torch.bfloat16
    hidden = F.embedding(batch[:, :-1], body.embed_tokens.weight)
    hidden = hidden if masks is None else hidden * masks[0]
    for number, layer in enumerate(body.layers):
        normed = rms_norm(hidden, layer.input_layernorm.weight, config.rms_norm_eps).to(half)
        mixed = attend(layer.self_attn, normed, tables, config)
        hidden = hidden + (mixed if masks is None else mixed * masks[2 * number + 1])
        normed = rms_norm(hidden, layer.post_attention_layernorm.weight, config.rms_norm_eps).to(half)
        weights = torch.cat((layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight)).to(half)
        gate, up = F.linear(normed, weights).chunk(2, -1)
        mixed = F.linear(F.silu(gate.float()).to(half) * up, layer.mlp.down_proj.weight.to(half))
        hidden = hidden + (mixed if masks is None else mixed * masks[2 * number + 2])
    normed = rms_norm(hidden, body.norm.weight, config.rms_norm_eps).to(half)
    logits = F.linear(normed, body.embed_tokens.weight.to(half))
    return F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())


def stock_loss(model: Qwen3ForCausalLM, batch: torch.Tensor, dropout: float) -> torch.Tensor:
    """Mean nats per token of `batch [rows, length + 1]` by the stock module; it knows no `dropout`."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=batch[:, :-1]).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())


def fastest_loss(config: Qwen3Config) -> Loss:
    """The compiled loss where there is a C++ compiler, otherwise the stock module's."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        return stock_loss
    compiled = torch.compile(lean_loss, dynamic=False)

    def loss(model: Qwen3ForCausalLM, batch: torch.Tensor, dropout: float) -> torch.Tensor:
        rows, length = batch.shape[0], batch.shape[1] - 1
        tables = rotary(length, config.head_dim, config.rope_parameters["rope_theta"])
        masks = None
        if dropout:
            masks = torch.empty(
                1 + 2 * config.num_hidden_layers, rows, length, config.hidden_size, dtype=torch.bfloat16
            )
            masks.bernoulli_(1.0 - dropout).div_(1.0 - dropout)
        return compiled(model, batch, tables, masks)

    return loss
