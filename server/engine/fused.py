"""The decode step of Llama-shaped decoders on a GPU, in five kernels a layer.

A step of few rows is bound by reading the weights, if nothing stands between one read and the next. transformers' own
forward stands between them with some fifty kernels a layer. Here a layer is: norm and q, k, v; attention with the norm
and rotary embedding of its queries and keys; out, added to the residual; norm, gate and up and their product; down,
added to the residual. Each kernel is launched before the one before it is done, and fetches weights meanwhile.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
from torch import Tensor, nn

from server.engine import kernels
from server.engine.attention import Layer
from server.engine.decode import Table, Turn
from server.engine.lean import joined, llama_shaped, window_of


class Tiles(NamedTuple):
    """How a product is divided: rows of the weight that a program has, how many numbers of each at a time, its warps,
    and how many such tiles are on their way."""

    height: int
    width: int
    warps: int
    stages: int


def fusible(network: Any) -> bool:
    """Whether it is of the shape that is fused, and computes in half precision."""
    half = network.dtype in (torch.bfloat16, torch.float16)
    return half and llama_shaped(network) and network.config.hidden_act == "silu"


class Fused:
    """The fused step of a network for up to `context` positions; the two share their weights."""

    def __init__(self, network: Any, context: int) -> None:
        body = network.model
        self._embedding: Tensor = body.embed_tokens.weight
        self._layers = [FusedLayer(layer, number) for number, layer in enumerate(body.layers)]
        self._norm, self._head = Norm.of(body.norm), network.lm_head
        every = torch.arange(context, device=self._embedding.device)[None]
        cosines, sines = body.rotary_emb(self._embedding[:1, None], every)
        self._tables = cosines[0].contiguous(), sines[0].contiguous()

    def forward(self, tokens: Tensor, table: Table) -> Tensor:
        """Logits, float32 `[rows, vocab]`, of the new tokens of a table's rows. tokens: int64 `[rows]`."""
        x = F.embedding(tokens, self._embedding)
        for layer in self._layers:
            layer.forward(x, table, self._tables)
        return multiply(x, self._head, self._norm, torch.float32)


class Norm(NamedTuple):
    """The weights and the epsilon of an RMS norm."""

    weight: Tensor
    epsilon: float

    @staticmethod
    def of(norm: Any) -> "Norm":
        """Of one of transformers."""
        return Norm(norm.weight, norm.variance_epsilon)


class FusedLayer:
    """One layer."""

    def __init__(self, layer: Any, number: int) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._dim: int = attention.head_dim
        self._heads, self._kv_heads = (p.out_features // self._dim for p in (attention.q_proj, attention.k_proj))
        self._shape = Layer(number, attention.scaling, window_of(attention), None)
        self._before, self._between = Norm.of(layer.input_layernorm), Norm.of(layer.post_attention_layernorm)
        self._head_norms = (attention.q_norm.weight, attention.k_norm.weight) if hasattr(attention, "q_norm") else None
        self._qkv = _shared(attention.q_proj, attention.k_proj, attention.v_proj)
        self._gate_up = _shared(mlp.gate_proj, mlp.up_proj)
        self._out, self._down = attention.o_proj, mlp.down_proj

    def forward(self, x: Tensor, table: Table, tables: tuple[Tensor, Tensor]) -> None:
        """Changes the hidden states `[rows, hidden]` in place."""
        qkv = multiply(x, self._qkv, self._before)
        heads = qkv.view(1, len(x), -1, self._dim).transpose(1, 2)
        q, k, v = heads.split([self._heads, self._kv_heads, self._kv_heads], 1)
        turn = Turn(*tables, self._head_norms, self._before.epsilon)
        mixed = table.attend(self._shape, q, k, v, turn).view(len(x), -1)
        add_product(x, mixed, self._out)
        if len(x) == 1:
            inner = x.new_empty(1, self._gate_up.out_features // 2)
            _product(x, self._gate_up, inner, self._between, gated=True)
        else:
            both = multiply(x, self._gate_up, self._between)
            inner = x.new_empty(len(x), both.shape[1] // 2)
            kernels.gated[(triton.cdiv(inner.shape[1], 1024), len(x))](both, inner, inner.shape[1], WIDTH=1024)
        add_product(x, inner, self._down)


def multiply(x: Tensor, layer: nn.Linear, norm: Norm, dtype: torch.dtype | None = None) -> Tensor:
    """layer(norm(x)) of rows `[rows, width]`, of this dtype, x's if none is given."""
    rows, width = x.shape
    if rows == 1:
        return _product(x, layer, x.new_empty(1, layer.out_features, dtype=dtype), norm)
    even = torch.empty_like(x)
    kernels.normed[(rows,)](x, norm.weight, even, width, norm.epsilon, WIDTH=triton.next_power_of_2(width))
    if dtype in (None, x.dtype) or layer.bias is not None or not x.is_cuda:
        return F.linear(even, layer.weight, layer.bias).to(dtype or x.dtype)
    return torch.mm(even, layer.weight.T, out_dtype=dtype)  # only CUDA has it


def add_product(to: Tensor, x: Tensor, layer: nn.Linear) -> None:
    """to += layer(x), rows `[rows, height]`."""
    if len(x) == 1:
        _product(x, layer, to, added=True)
    elif layer.bias is None:
        to.addmm_(x, layer.weight.T)
    else:
        to += layer(x)


def _product(
    x: Tensor, layer: nn.Linear, out: Tensor, norm: Norm | None = None, gated: bool = False, added: bool = False
) -> Tensor:
    """`kernels.product`: see there."""
    height, width = out.shape[1], x.shape[1]
    tiles = divide(height, width, gated)
    chained = kernels.chained(x.device)
    weight = layer.weight
    kernels.product[(triton.cdiv(height, tiles.height), len(x))](
        x, x if norm is None else norm.weight, weight, weight if layer.bias is None else layer.bias, out, width, height,
        0.0 if norm is None else norm.epsilon,
        NORMED=norm is not None, GATED=gated, ADDED=added, BIASED=layer.bias is not None, CHAINED=chained,
        HEIGHT=tiles.height, WIDTH=tiles.width, STAGES=tiles.stages, num_warps=tiles.warps,
        **({"launch_pdl": True} if chained else {}),
    )  # fmt: skip
    return out


def divide(height: int, width: int, gated: bool) -> Tiles:
    """By what was fastest on an H200, of 114 ways, for the layers of a 0.6 B and an 8 B model."""
    if width <= 1024:
        return Tiles(4, 512, 2, 3 if gated else 1)
    if height <= 2048 and width <= 4096:  # a row at once
        whole = triton.next_power_of_2(width)
        return Tiles(4, whole, whole // 512, 1)
    return Tiles(4, 1024, 4, 4) if gated else Tiles(4, 1024, 2, 3)


def _shared(*layers: nn.Linear) -> nn.Linear:
    """Layers on the same input as one; they keep views of its weights."""
    whole = joined(*layers)
    for name in ("weight", "bias") if whole.bias is not None else ("weight",):
        parts = getattr(whole, name).split([layer.out_features for layer in layers])
        for layer, part in zip(layers, parts, strict=True):
            setattr(layer, name, nn.Parameter(part, requires_grad=False))
    return whole
