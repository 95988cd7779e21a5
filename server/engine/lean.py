"""The forward of Llama-shaped decoders in as few operators as can be, on the CPU.

A step of few rows is bound by what a call costs: transformers' own forward issues some seventy operators a layer beside
attention, each with a few microseconds of its own and a thread to wake. Here q, k and v are one product, gate and up
another, and rotary embedding is three operators on q, k and v together. Keys and values of a row lie in one tensor for
all layers, so that a row costs one copy and one attention a layer.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from server.engine.attention import Layer, Packed, Segment, attend_segment
from server.engine.kv_cache import Layout
from server.engine.linear import product_dtype

_FAMILIES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


def lean(network: Any) -> "Lean | None":
    """A lean forward of this network, which gives its weights away layer by layer; None if it is of another shape."""
    return Lean(network) if llama_shaped(network) else None


def llama_shaped(network: Any) -> bool:
    """Whether it is one of transformers' decoders of RMS norms, rotary attention and a gated MLP."""
    return type(network).__name__ in _FAMILIES and type(network).__module__.startswith("transformers.models.")


def window_of(attention: Any) -> int | None:
    """The sliding window of a layer of one of them, in tokens."""
    # Mistral's layers have it in their config; Llama's never look at one that is there.
    window = getattr(attention, "sliding_window", getattr(attention.config, "sliding_window", None))
    return None if type(attention).__name__ == "LlamaAttention" else window


class Lean(nn.Module):
    """A decoder of RMS norms, rotary attention and a gated MLP. Its linear layers are ordinary ones, to be replaced.

    What goes from layer to layer is of the type of their products (`product_dtype`): of float32 also in a model of
    bfloat16, but where the processor multiplies in that; keys and values are of the model's own.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        body = network.model
        self.embedding, self.rotary = body.embed_tokens, body.rotary_emb
        self.dtype = product_dtype(self.embedding.weight.dtype)
        self.norm, self.head = Norm(body.norm), network.lm_head
        self.layers = nn.ModuleList()
        for number in range(len(body.layers)):
            self.layers.append(LeanLayer(body.layers[number], number))
            body.layers[number] = nn.Identity()  # its weights are copied: free them before the next is

    @property
    def layout(self) -> Layout:
        """How a row's keys and values are laid out."""
        first: Any = self.layers[0]
        return Layout(len(self.layers), first.kv_heads, first.dim, self.embedding.weight.dtype)

    def forward(self, tokens: Tensor, positions: Tensor, packed: Packed, drawing: Tensor) -> Tensor:
        """Logits `[len(drawing), vocab]` of some places of a packed step. tokens, positions, drawing: int64 `[n]`."""
        x = self.embedding(tokens).to(self.dtype)
        cos, sin = self._rotation(x, positions)
        rows = _Rows(packed, self.embedding.weight.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin, rows)
        return self.head(self.norm(x[drawing]))

    def _rotation(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """What q, k and v are multiplied with, and what q, k and v with their halves swapped are, `[n, heads, dim]`.

        v is not turned: 1 and 0.
        """
        first: Any = self.layers[0]
        cos, sin = self.rotary(x[None], positions[None])
        half = first.dim // 2
        sin = torch.cat([-sin[0, :, :half], sin[0, :, half:]], -1)
        turned = first.heads + first.kv_heads
        cosines = x.new_ones(len(x), turned + first.kv_heads, first.dim)
        sines = torch.zeros_like(cosines)
        cosines[:, :turned] = cos[0][:, None]
        sines[:, :turned] = sin[:, None]
        return cosines, sines


class LeanLayer(nn.Module):
    """One layer: the weights of transformers' own, joined."""

    def __init__(self, layer: Any, number: int) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.dim: int = attention.head_dim
        self.heads, self.kv_heads = (p.out_features // self.dim for p in (attention.q_proj, attention.k_proj))
        self.shape = Layer(number, attention.scaling, window_of(attention), None)
        self.before, self.between = Norm(layer.input_layernorm), Norm(layer.post_attention_layernorm)
        self.qkv = joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = attention.o_proj
        self.gate_up = joined(mlp.gate_proj, mlp.up_proj)
        self.down, self.activation = mlp.down_proj, mlp.act_fn
        self.head_norms = [Norm(attention.q_norm), Norm(attention.k_norm)] if hasattr(attention, "q_norm") else None

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, rows: "_Rows") -> Tensor:
        """Hidden states `[n, hidden]`. cos, sin: see Lean."""
        qkv = self.qkv(self.before(x)).view(len(x), -1, self.dim)
        if self.head_norms is not None:
            q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], 1)
            qkv = torch.cat([self.head_norms[0](q), self.head_norms[1](k), v], 1)
        qkv = torch.addcmul(qkv * cos, qkv.roll(self.dim // 2, -1), sin)
        x = self.out(rows.attend(self.shape, qkv, self.heads), x)
        gate, up = self.gate_up(self.between(x)).chunk(2, -1)
        return self.down(self.activation(gate) * up, x)


class Norm:
    """RMS norm as one layer norm: of a row and its negative together the mean is 0, and the variance the mean square.

    torch's own RMS norm is eight operators on the CPU. weight: `[size]`.
    """

    def __init__(self, norm: Any) -> None:
        self._weight = norm.weight.detach().to(product_dtype(norm.weight.dtype)).repeat(2)
        self._signs = self._weight.new_tensor([[1.0], [-1.0]])
        self.weight = self._weight[: len(self._weight) // 2]
        self.epsilon: float = norm.variance_epsilon

    def __call__(self, x: Tensor) -> Tensor:
        """`[..., size]`."""
        both = (x[..., None, :] * self._signs).flatten(-2)
        return F.layer_norm(both, self._weight.shape, self._weight, None, self.epsilon)[..., : x.shape[-1]]


class _Rows:
    """The rows of a step: those of one token first, then pieces of prompts, then what is spare. dtype: of keys and
    values."""

    def __init__(self, packed: Packed, dtype: torch.dtype) -> None:
        self._packed, self._dtype = packed, dtype
        ones = [segment.length == 1 for segment in packed.segments]
        self._count = ones.index(False) if False in ones else len(ones)
        self._single = packed.segments[: self._count]
        self._longer: list[Segment] = packed.segments[self._count :]
        self._to = [segment.cache.places(segment.start, segment.start + 1) for segment in self._single]
        self._windows: dict[int | None, list[list[Tensor]]] = {}
        self._nothing: Tensor | None = None

    def attend(self, layer: Layer, qkv: Tensor, heads: int) -> Tensor:
        """Attention of all rows, `[n, heads * dim]`. qkv: `[n, heads and twice the kv heads, dim]`."""
        count, dim, dtype = self._count, qkv.shape[-1], qkv.dtype
        qkv = qkv.to(self._dtype)
        kv_heads = (qkv.shape[1] - heads) // 2
        shared = (kv_heads, heads // kv_heads, dim)
        out = []
        if count:
            queries = qkv[:count, :heads].view(count, 1, *shared).unbind(0)
            fresh = qkv[:count, heads:].view(count, 2, 1, kv_heads, 1, dim).unbind(0)
            seen = self._seen(layer.window)
            for row in range(count):  # each attends over its own exact length: see `attention.attend`
                self._to[row][layer.number].copy_(fresh[row])
                keys, values = seen[row][2 * layer.number : 2 * layer.number + 2]
                out.append(F.scaled_dot_product_attention(queries[row], keys, values, scale=layer.scaling))
        for segment in self._longer:
            part = qkv[None, segment.rows].transpose(1, 2)
            q, k, v = part.split([heads, kv_heads, kv_heads], 1)
            mixed = attend_segment(layer, self._packed, segment, q, k, v)
            out.append(mixed[0].transpose(0, 1).reshape(segment.length, *shared))
        if self._packed.spare:
            if self._nothing is None:
                self._nothing = qkv.new_zeros(self._packed.spare, *shared)
            out.append(self._nothing)
        return torch.cat(out).view(len(qkv), -1).to(dtype)

    def _seen(self, window: int | None) -> list[list[Tensor]]:
        """What each row of one token sees: keys and values of the first layer, of the second, ..."""
        if window not in self._windows:
            self._windows[window] = [
                segment.cache.seen(max(0, segment.start - window + 1) if window else 0, segment.start + 1)
                for segment in self._single
            ]
        return self._windows[window]


def joined(*layers: nn.Linear) -> nn.Linear:
    """Layers on the same input as one."""
    whole = nn.Linear(layers[0].in_features, sum(layer.out_features for layer in layers), bias=False, device="meta")
    whole.weight = nn.Parameter(torch.cat([layer.weight for layer in layers]), requires_grad=False)
    if layers[0].bias is not None:
        whole.bias = nn.Parameter(torch.cat([layer.bias for layer in layers]), requires_grad=False)
    return whole
