"""Linear layers whose result for a row has the same bits in any company (batch invariance), on the CPU.

Matrix products choose their algorithm by the number of rows, and with it the order of additions: a row computed
alone differs in its last bits from the same row among fifteen others, and a token drawn from it may differ too. The
layers here are replaced after loading by ones that were *seen*, at start, to give equal bits for every number of
rows up to a limit; more rows than that are taken in pieces.
"""

from collections.abc import Iterable
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

_PROBED = (*range(2, 65), 96, 128, 192, 256, 384, 512)
_FEWEST = 6 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 2
"""With AVX-512 products of 3 to 6 rows are oneDNN's fastest: they take 0.75 times the time of one row in float32, 0.85
in bfloat16. With AVX2 two rows are, and six take 1.3 times their time."""
# In bf16 the products of more than 32 rows differ in a few rows of a hundred: too few to rely on seeing them.
_MOST_ROWS = {torch.float32: 512, torch.bfloat16: 32}
_FIXED = 16


def padded(count: int) -> int:
    """The next of a few sizes: 2, 4 and 6, or 6 alone where they take no less time; 8, multiples of 4 up to 32, of 8 up
    to 64, of 32.

    oneDNN keeps a compiled product of about 0.4 MB for every number of rows it has met: 430 MB once a server has seen
    them all. With few sizes it is little, and padding changes no bits.
    """
    if count <= 6:
        return max(_FEWEST, count + count % 2)
    unit = 4 if count <= 32 else 8 if count <= 64 else 32
    return -(-count // unit) * unit


class PackedLinear(nn.Module):
    """A linear layer with oneDNN-packed weights, which also reads them faster (1.1 to 1.6 times in bf16).

    Its input may be of a narrower type than its weights: it is widened, and the result rounded to it.

    limit: rows up to which a product is invariant. One row alone takes another algorithm, which sums long rows in
    another order; it is computed as two.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, _FIXED)
        self.bias = bias
        self.limit = 0

    @property
    def way(self) -> str:
        """How it is done, in a word."""
        return f"packed in {str(self.packed.dtype).removeprefix('torch.')}"

    def product(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """`[rows, in] -> [rows, out]` in one call. onto: `[rows, out]`, is added before the result is rounded; given
        for `padded` numbers of rows."""
        if onto is None:
            return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return torch.ops.mkldnn._linear_pointwise.binary(x, onto, self.packed, self.bias, "add")

    def forward(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        rows = x.reshape(-1, self.in_features).to(self.packed.dtype)
        out = self._rows(rows, None if onto is None else onto.to(self.packed.dtype))
        return out.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def _rows(self, rows: Tensor, onto: Tensor | None) -> Tensor:
        if len(rows) == 1:
            twice = None if onto is None else onto.expand(2, -1).contiguous()
            return self.product(rows.expand(2, -1).contiguous(), twice)[:1]
        if len(rows) <= self.limit:
            return self.product(rows, onto)
        # A single row that is left over is done as two.
        pieces = zip(rows.split(self.limit), _split(onto, self.limit), strict=False)
        return torch.cat([self._rows(*piece) for piece in pieces])


class FixedLinear(nn.Module):
    """The fallback without oneDNN packing: products always of exactly 16 rows, padded where need be."""

    way = "fixed"

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        pieces = []
        for piece in rows.split(_FIXED):
            full = F.pad(piece, (0, 0, 0, _FIXED - len(piece))) if len(piece) < _FIXED else piece
            pieces.append(F.linear(full, self.weight, self.bias)[: len(piece)])
        out = torch.cat(pieces).view(*x.shape[:-1], self.out_features)
        return out if onto is None else out + onto


def _split(rows: Tensor | None, size: int) -> Iterable[Tensor | None]:
    return repeat(None) if rows is None else rows.split(size)


def _product_dtype(dtype: torch.dtype) -> torch.dtype:
    """What products of weights of this type are computed in, on this processor.

    Where oneDNN has no products of 16 bits (AVX2), those of sixteen rows take torch five times as long as in float32,
    and those of one row have other bits. So weights are widened there, which takes twice the memory.
    """
    if dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return dtype
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _probe(layer: PackedLinear, dtype: torch.dtype) -> int:
    """The largest probed number of rows up to which every row has the bits that it has as one of two, 0 if none."""
    most = min(_MOST_ROWS.get(dtype, 0), 512 if layer.out_features <= 8192 else 64)
    if not most:
        return 0
    x = torch.randn(most, layer.in_features, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = torch.cat([layer.product(pair) for pair in x.split(2)])
    nothing = torch.zeros_like(expected)
    limit = 0
    for count in _PROBED:
        if count > most or not torch.equal(layer.product(x[:count]), expected[:count]):
            break
        if padded(count) == count and not torch.equal(layer.product(x[:count], nothing[:count]), expected[:count]):
            break
        limit = count
    return limit


def make_invariant(model: nn.Module) -> str:
    """Replace the linear layers of a model on the CPU, in place; in a word, what was done: "packed in" some
    type, "fixed", or both.

    The weights of a layer are freed as it is replaced, unless something else (a tied embedding) still holds them.
    """
    probed: dict[tuple[int, int, torch.dtype], int] = {}
    ways = set()
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) not in (nn.Linear, Conv1D):
                continue
            weight: Tensor = layer.get_parameter("weight").detach()
            weight = (weight.T if type(layer) is Conv1D else weight).contiguous()
            bias = None if layer.bias is None else layer.get_parameter("bias").detach()
            replaced = _replacement(weight, bias, probed)
            ways.add(replaced.way)
            setattr(parent, name, replaced)
    return " and ".join(sorted(ways))


def _replacement(
    weight: Tensor, bias: Tensor | None, probed: dict[tuple[int, int, torch.dtype], int]
) -> PackedLinear | FixedLinear:
    shape = (*weight.shape, weight.dtype)
    try:
        dtype = _product_dtype(weight.dtype)
        layer = PackedLinear(weight.to(dtype), None if bias is None else bias.to(dtype))
        if shape not in probed:
            probed[shape] = _probe(layer, dtype)
    except (RuntimeError, AttributeError, NotImplementedError):  # private operators: absent or changed
        probed[shape] = 0
    if probed[shape] < _FIXED:
        return FixedLinear(weight, bias)
    layer.limit = probed[shape]
    return layer
