"""The lean forward as machine code for this processor, by native.cpp.

On the CPU a step of few rows is bound by what a call costs, and by reading weights. Here all layers are one call; and
products of any number of rows have the same bits, with no rows beside them that nobody wants, of weights in 16 bits
where these lose nothing.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import SiLUActivation

from server.engine import native
from server.engine.attention import Packed
from server.engine.lean import Lean, LeanLayer, Norm
from server.engine.packed import HalfLinear


def suits(lean: Lean) -> bool:
    """Whether what goes from layer to layer is float32, and native.cpp has the sizes and the activation.

    CannotCompile as `native.library`.
    """
    layers: list[Any] = list(lean.layers)
    sizes = {size for layer in layers for size in (layer.out.out_features, layer.down.in_features, layer.dim)}
    return (
        lean.dtype == torch.float32
        and all(isinstance(layer.activation, nn.SiLU | SiLUActivation) for layer in layers)
        and all(size % native.panel() == 0 for size in sizes)
    )


class CompiledLean:
    """A lean forward which `suits`, whose linear layers are ordinary ones; it takes their weights away."""

    def __init__(self, lean: Lean) -> None:
        self.layout = lean.layout
        self._embedding, self._rotary = lean.embedding, lean.rotary
        self._layers = [CompiledLayer(layer, self.layout.dtype) for layer in lean.layers]  # type: ignore[arg-type]
        self._natives = (native.Layer * len(self._layers))(*(layer.native for layer in self._layers))
        self._norm, self._head = lean.norm, CompiledLinear(lean.head)

    def __call__(self, tokens: Tensor, positions: Tensor, packed: Packed, drawing: Tensor) -> Tensor:
        """As `Lean.forward`."""
        library, threads, first = native.library(), torch.get_num_threads(), self._layers[0]
        x = self._embedding(tokens).float()
        cosines, sines = (part[0].contiguous() for part in self._rotary(x[None], positions[None]))
        segments = described(packed)
        normed, more = torch.empty_like(x), torch.empty_like(x)
        qkv, mixed, both, inner = (x.new_empty(len(x), size) for size in first.sizes)
        room = (part.data_ptr() for part in (x, normed, more, qkv, mixed, both, inner, cosines, sines, segments))
        step = native.Step(*room, len(segments), len(x), threads)
        library.layers(self._natives, len(self._natives), step)
        library.norm(_native(self._norm), x.data_ptr(), normed.data_ptr(), len(x), threads)
        return self._head(normed[drawing])


class CompiledLayer:
    """One layer. sizes: numbers a row of q, k and v, of what heads mix, of gate and up, and of one of these."""

    def __init__(self, lean: LeanLayer, dtype: torch.dtype) -> None:
        """dtype: of keys and values."""
        self._norms = [lean.before, lean.between, *(lean.head_norms or [])]
        linears = [CompiledLinear(linear) for linear in (lean.qkv, lean.out, lean.gate_up, lean.down)]
        self.sizes = [linears[0].size, linears[1].inputs, linears[2].size, linears[3].inputs]
        before, between, *heads = (_native(norm) for norm in self._norms)
        query, key = heads or [native.Norm(None, lean.dim, 0.0)] * 2
        group, kind = lean.heads // lean.kv_heads, native.KINDS.index(dtype)
        counts = lean.shape.number, lean.kv_heads, group, lean.dim, lean.shape.window or 0, kind
        attention = native.Attention(query, key, *counts, lean.shape.scaling)
        self._linears = linears  # kept, as are the norms: native.Layer has the addresses of their weights alone
        self.native = native.Layer(before, between, *(linear.native for linear in linears), attention)


class CompiledLinear:
    """A linear layer, whose weights it takes away: in 16 bits if these hold them, else as they are.

    inputs, size: numbers a row that it takes and gives.
    """

    def __init__(self, linear: nn.Linear) -> None:
        self.inputs, self.size = linear.in_features, linear.out_features
        weight, width = linear.weight.detach(), native.panel()
        spare = (0, 0, 0, -self.size % width)
        panels = F.pad(weight.to(_kind(weight)), spare).view(-1, width, self.inputs)
        self._panels = panels.transpose(1, 2).contiguous()
        self._bias = None if linear.bias is None else F.pad(linear.bias.detach().float(), spare[2:])
        bias = None if self._bias is None else self._bias.data_ptr()
        kind = native.KINDS.index(self._panels.dtype)
        self.native = native.Linear(self._panels.data_ptr(), bias, self.inputs, len(self._panels), kind)
        del linear.weight

    def __call__(self, x: Tensor) -> Tensor:
        """`[rows, inputs]` of float32 to `[rows, size]`."""
        count, _, width = self._panels.shape
        out = x.new_empty(len(x), count * width)
        native.library().linear(self.native, x.data_ptr(), out.data_ptr(), len(x), torch.get_num_threads())
        return out[:, : self.size]


def _kind(weight: Tensor) -> torch.dtype:
    if HalfLinear.holds(weight):
        return torch.float16
    return torch.bfloat16 if torch.equal(weight.bfloat16().float(), weight.float()) else torch.float32


def _native(norm: Norm) -> native.Norm:
    return native.Norm(norm.weight.data_ptr(), len(norm.weight), norm.epsilon)


def described(packed: Packed) -> Tensor:
    """The segments of a step as native.cpp has them, int64 `[segments, 5]`."""
    return torch.tensor([(s.cache.address, s.cache.capacity, s.offset, s.start, s.length) for s in packed.segments])
