"""The lean forward with everything between its products as machine code for this processor. It needs a C++ compiler.

On the CPU a step of few rows is bound by what a call costs, and attention of many short rows is a call a row: in
native.cpp a layer has three calls beside its products, whatever the number of rows.
"""

import ctypes
from ctypes import c_float, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import SiLUActivation

from adaptive import CannotCompile
from server.engine.attention import Packed, Segment, attend_segment
from server.engine.lean import Lean, LeanLayer, Norm

_SOURCE = Path(__file__).with_suffix(".cpp")
KINDS = (torch.float32, torch.bfloat16, torch.float16)
"""What keys and values may be."""
_SIGNATURES: dict[str, list[Any]] = {
    "norm": [c_void_p, c_void_p, c_void_p, c_float, c_void_p, c_int64, c_int64, c_int],
    "gated": [c_void_p, c_void_p, c_int64, c_int64, c_int],
    "attend": [c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_int64, c_void_p, c_int, c_int],
}


class _Shape(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("query_norm", "key_norm")),
        *((name, c_int64) for name in ("layer", "kv_heads", "group", "dim", "window")),
        *((name, c_float) for name in ("epsilon", "scale")),
    ]


@cache
def library() -> Any:
    """native.cpp, compiled. It takes some seconds once, as torch keeps on disk what it has compiled.

    CannotCompile if there is no C++ compiler or it fails.
    """
    try:
        # Imported here: it takes seconds, and torch promises nothing of it.
        from torch._inductor.codecache import CppCodeCache

        made = CppCodeCache.load(_SOURCE.read_text())
    except Exception as fault:
        raise CannotCompile(f"{type(fault).__name__}: {fault}") from fault
    made.lanes.restype = c_int64
    for name, arguments in _SIGNATURES.items():
        function = getattr(made, name)
        function.argtypes, function.restype = arguments, None
    return made


def suits(lean: Lean) -> bool:
    """Whether a lean forward is of float32 numbers, and of sizes and an activation that native.cpp has."""
    lanes = int(library().lanes())
    layers: list[Any] = list(lean.layers)
    return (
        lean.dtype == torch.float32
        and lean.layout.dtype in KINDS
        and all(isinstance(layer.activation, nn.SiLU | SiLUActivation) for layer in layers)
        and all(size % lanes == 0 for layer in layers for size in (layer.out.out_features, layer.down.in_features))
        and all(layer.dim % (2 * lanes) == 0 for layer in layers)
    )


class Native:
    """A lean forward which `suits`. The last bits are other ones than those of `Lean`."""

    def __init__(self, lean: Lean) -> None:
        self._lean, self.layout = lean, lean.layout
        self._library = library()
        self._kind = KINDS.index(lean.layout.dtype)
        self._layers = [_Layer(layer) for layer in lean.layers]  # type: ignore[arg-type]

    def __call__(self, tokens: Tensor, positions: Tensor, packed: Packed, drawing: Tensor) -> Tensor:
        """As `Lean.forward`."""
        lean, first, threads = self._lean, self._layers[0].plain, torch.get_num_threads()
        x = lean.embedding(tokens).float()
        cosines, sines = (part[0].contiguous() for part in lean.rotary(x[None], positions[None]))
        places = _places(packed, len(x))
        longer = [segment for segment in packed.segments if segment.length > 1]
        normed, more = torch.empty_like(x), None
        mixed = x.new_zeros(len(x), first.heads, first.dim)
        turned = cosines.data_ptr(), sines.data_ptr(), places.data_ptr(), len(x), mixed.data_ptr(), threads, self._kind
        for layer in self._layers:
            self._norm(x, more, layer.plain.before, normed, threads)
            qkv = layer.plain.qkv(normed)
            self._library.attend(layer.shape, qkv.data_ptr(), *turned)
            for segment in longer:
                mixed[segment.rows] = layer.attend(packed, segment, qkv[segment.rows], self.layout.dtype)
            more = layer.plain.out(mixed.flatten(1))
            self._norm(x, more, layer.plain.between, normed, threads)
            both = layer.plain.gate_up(normed)
            inner = both.new_empty(len(x), both.shape[1] // 2)
            self._library.gated(both.data_ptr(), inner.data_ptr(), *inner.shape, threads)
            more = layer.plain.down(inner)
        self._norm(x, more, lean.norm, normed, threads)
        return lean.head(normed[drawing])

    def _norm(self, x: Tensor, more: Tensor | None, norm: Norm, out: Tensor, threads: int) -> None:
        added = None if more is None else more.data_ptr()
        self._library.norm(x.data_ptr(), added, norm.weight.data_ptr(), norm.epsilon, out.data_ptr(), *x.shape, threads)


class _Layer:
    """A lean layer, and how it attends."""

    def __init__(self, plain: LeanLayer) -> None:
        self.plain = plain
        norms = plain.head_norms or []
        sizes = plain.shape.number, plain.kv_heads, plain.heads // plain.kv_heads, plain.dim, plain.shape.window or 0
        epsilon = norms[0].epsilon if norms else 0.0
        weights = [norm.weight.data_ptr() for norm in norms] or [None, None]
        self._shape = _Shape(*weights, *sizes, epsilon, plain.shape.scaling)
        self.shape = ctypes.addressof(self._shape)

    def attend(self, packed: Packed, segment: Segment, qkv: Tensor, dtype: torch.dtype) -> Tensor:
        """Attention of a piece of a prompt, `[n, heads, dim]`. qkv: turned; dtype: of keys and values."""
        heads, kv_heads = self.plain.heads, self.plain.kv_heads
        part = qkv.view(1, segment.length, -1, self.plain.dim).transpose(1, 2).to(dtype)
        q, k, v = part.split([heads, kv_heads, kv_heads], 1)
        return attend_segment(self.plain.shape, packed, segment, q, k, v)[0].transpose(0, 1)


def _places(packed: Packed, rows: int) -> Tensor:
    """`Place` of native.cpp for each row, int64 `[rows, 3]`."""
    places = [(0, 0, 0)] * rows
    for segment in packed.segments:
        if segment.length == 1:
            places[segment.offset] = (segment.cache.address, segment.cache.capacity, segment.start)
    return torch.tensor(places)
