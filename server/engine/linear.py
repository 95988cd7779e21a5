"""Linear layers whose result for a row has the same bits in any company (batch invariance), on the CPU.

Matrix products choose their algorithm by the number of rows, and with it the order of additions: a row computed
alone differs in its last bits from the same row among fifteen others, and a token drawn from it may differ too. The
layers here are replaced after loading by ones that were *seen*, at start, to give equal bits for every number of
rows up to a limit; more rows than that are taken in pieces.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from server.engine.packed import ConvolvedLinear, HalfLinear, PackedLinear

_FIXED = 16
_LARGE = 1 << 19
"""From so many weights on a convolution takes less time than a product, with AVX2."""


class FixedLinear(nn.Module):
    """The fallback where no packing can be had: products always of exactly 16 rows, padded where need be."""

    way = "fixed"

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        rows = x.reshape(-1, self.in_features).to(self.weight.dtype)
        pieces = []
        for piece in rows.split(_FIXED):
            full = F.pad(piece, (0, 0, 0, _FIXED - len(piece))) if len(piece) < _FIXED else piece
            pieces.append(F.linear(full, self.weight, self.bias)[: len(piece)])
        out = torch.cat(pieces).to(x.dtype).view(*x.shape[:-1], self.out_features)
        return out if onto is None else out + onto


def product_dtype(dtype: torch.dtype) -> torch.dtype:
    """What products of weights of this type are computed in, on this processor.

    Without instructions for products of 16 bits these take two to five times as long as in float32.
    """
    if dtype == torch.bfloat16 and _multiplies_bfloat16():
        return dtype
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _multiplies_bfloat16() -> bool:
    """Whether it has instructions for such products, and oneDNN uses them."""
    if torch.cpu._is_avx2_supported():  # with AVX-512 oneDNN computes in bfloat16 even without its instructions
        return bool(torch.cpu._is_avx512_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _kinds(weight: Tensor) -> list[type[PackedLinear]]:
    """What to try, the best first, for a layer with these weights."""
    vectors = torch.backends.cpu.get_cpu_capability()
    if vectors not in ("AVX2", "AVX512") or product_dtype(weight.dtype) == torch.bfloat16:
        return [PackedLinear]
    convolves = [ConvolvedLinear] if vectors == "AVX2" and weight.numel() >= _LARGE else []
    halves = [HalfLinear] if HalfLinear.holds(weight) else []
    return [*halves, *convolves, PackedLinear]


def make_invariant(model: nn.Module) -> str:
    """Replace the linear layers of a model on the CPU, in place; in a word, what was done: "packed in" some
    type, "fixed", or both.

    The weights of a layer are freed as it is replaced, unless something else (a tied embedding) still holds them.
    """
    probed: dict[tuple[Any, ...], PackedLinear | None] = {}
    ways = set()
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) not in (nn.Linear, Conv1D):
                continue
            weight: Tensor = layer.get_parameter("weight").detach()
            weight = (weight.T if type(layer) is Conv1D else weight).contiguous()
            bias = None if layer.bias is None else layer.get_parameter("bias").detach()
            kinds = _kinds(weight)
            alike = (*weight.shape, weight.dtype, *kinds)
            like = probed.get(alike)
            packed = _packed(kinds, weight, bias, like) if like is not None or alike not in probed else None
            probed.setdefault(alike, packed)
            replaced = FixedLinear(weight, bias) if packed is None else packed
            ways.add(replaced.way)
            setattr(parent, name, replaced)
    return " and ".join(sorted(ways))


def _packed(
    kinds: list[type[PackedLinear]], weight: Tensor, bias: Tensor | None, like: PackedLinear | None
) -> PackedLinear | None:
    """A packed layer, None if it cannot be had. like: one of the same shape and choice, which spares the probe."""
    for kind in kinds:
        try:
            dtype = product_dtype(weight.dtype)
            wide, other = weight.to(dtype), None if bias is None else bias.to(dtype)
            if like is not None:
                return like.again(wide, other)
            layer = kind(wide, other)
            layer.probe(wide)
        except (RuntimeError, AttributeError, NotImplementedError):  # private operators: absent or changed
            continue
        if layer.limit >= _FIXED:
            return layer
    return None
