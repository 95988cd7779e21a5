"""Linear layers with weights in a library's own order, whose products give a row the same bits among few rows and
many."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import cache
from itertools import repeat
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FEWEST = 4
"""With AVX2 products of 4 rows take no longer than of 2; with AVX-512 oneDNN's of 3 to 6 are faster than of one."""
_PAIRS = (*range(2, 65), 96, 128, 192, 256, 384, 512)
_TYPICAL = 16
"""Rows for which oneDNN is asked to order the weights."""
# In bf16 the products of more than 32 rows differ in a few rows of a hundred: too few to rely on seeing them.
_MOST_ROWS = {torch.float32: 512, torch.bfloat16: 32}
_LOST = 2.0**-22
"""Of its norm a product in float32 is off by about as much."""


def padded(count: int) -> int:
    """The next of a few sizes: the fewest rows that are worth it, multiples of 4 up to 32, of 8 up to 64, of 32.

    oneDNN keeps a compiled product of about 0.4 MB for every number of rows it has met: 430 MB once a server has seen
    them all. With few sizes it is little, and padding changes no bits.
    """
    if count <= _FEWEST:
        return _FEWEST
    unit = 4 if count <= 32 else 8 if count <= 64 else 32
    return -(-count // unit) * unit


class PackedLinear(nn.Module):
    """A linear layer with oneDNN-packed weights, which also reads them faster (1.1 to 1.6 times in bf16).

    Its input may be of a narrower type than its weights: it is widened, and the result rounded to it.

    limit: rows up to which a product was seen to be invariant, 0 if none.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.dtype = weight.dtype
        self.bias = bias
        self.packed = self._pack(weight, _TYPICAL)
        self.limit = 0

    @property
    def way(self) -> str:
        """How it is done, in a word."""
        return f"packed in {str(self.dtype).removeprefix('torch.')}"

    def product(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """`[rows, in] -> [rows, out]` in one call. onto: `[rows, out]`, is added before the result is rounded; given
        for `padded` numbers of rows."""
        if onto is None:
            return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return torch.ops.mkldnn._linear_pointwise.binary(x, onto, self.packed, self.bias, "add")

    def forward(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        if x.dim() == 2 and x.dtype == self.dtype and self._whole(len(x)) == len(x) <= self.limit:
            return self.product(x, onto)  # beside a product of few rows every other operator takes 3 to 5 us
        rows = x.reshape(-1, self.in_features).to(self.dtype)
        out = self._rows(rows, None if onto is None else onto.to(self.dtype))
        return out.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def probe(self, weight: Tensor) -> None:
        """Find the limit, by trying. weight: not packed."""
        most = min(_MOST_ROWS.get(self.dtype, 0), 512 if self.out_features <= 8192 else 64)
        if not most:
            return
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(most, self.in_features, generator=generator).to(self.dtype)
        expected = torch.cat([self.product(some) for some in x.split(self._whole(1))])
        nothing = torch.zeros_like(expected)
        for count in self._tried(most, weight):
            if not torch.equal(self.product(x[:count]), expected[:count]):
                break
            if padded(count) == count and not torch.equal(self.product(x[:count], nothing[:count]), expected[:count]):
                break
            self.limit = count

    def again(self, weight: Tensor, bias: Tensor | None) -> Self:
        """Another layer of the same shape, with what probing this one has found."""
        other = type(self)(weight, bias)
        other.limit = self.limit
        return other

    def _pack(self, weight: Tensor, rows: int) -> Any:
        """The weights in the order that is best for so many rows."""
        return torch.ops.mkldnn._reorder_linear_weight(weight, rows)

    def _tried(self, most: int, weight: Tensor) -> Iterable[int]:
        """Numbers of rows to probe."""
        return (count for count in _PAIRS if count <= most)

    def _whole(self, count: int) -> int:
        """How many rows are computed for so many: one alone takes another algorithm, which sums long rows in another
        order."""
        return max(count, 2)

    def _rows(self, rows: Tensor, onto: Tensor | None) -> Tensor:
        count = len(rows)
        if not count:  # a step may have only parts of prompts, none of which draws
            return rows.new_empty(0, self.out_features)
        if count > self.limit:
            pieces = zip(rows.split(self.limit), _split(onto, self.limit), strict=False)
            return torch.cat([self._rows(*piece) for piece in pieces])
        spare = (0, 0, 0, self._whole(count) - count)
        if spare[-1]:
            rows, onto = F.pad(rows, spare), None if onto is None else F.pad(onto, spare)
        return self.product(rows, onto)[:count]


class DividedLinear(PackedLinear, ABC):
    """One of which not every number of rows can be computed as it is: those that cannot are divided.

    parts: into how many, by the number of rows.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        self.parts = {padded(1): 1}

    def again(self, weight: Tensor, bias: Tensor | None) -> Self:
        other = super().again(weight, bias)
        other.parts = self.parts
        return other

    @abstractmethod
    def _suits(self, most: int, weight: Tensor) -> Callable[[int], bool]:
        """Whether so many rows, at most `most`, can be computed at once."""

    def _tried(self, most: int, weight: Tensor) -> Iterable[int]:
        suits = cache(self._suits(most, weight))
        for count in sorted({padded(count) for count in range(1, most + 1)}):
            shares = (parts for parts in range(1, count // 4 + 1) if count % (4 * parts) == 0)
            found = next((parts for parts in shares if suits(count // parts)), None)
            if found is None:
                return
            self.parts[count] = found
            yield count

    def _whole(self, count: int) -> int:
        return padded(count)


class ConvolvedLinear(DividedLinear):
    """The same by convolution: rows are the pixels of images. With AVX2 it takes 0.75 to 0.9 times the time.

    The order of the weights that oneDNN wants hangs on the number of pixels; it would put them in order at every call.
    So a number of rows that would have another order is divided among several images.
    """

    def product(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """The same, for `padded` numbers of rows."""
        window = [0, 0], [1, 1], [1, 1], 1
        convolve = torch.ops.mkldnn._convolution_pointwise
        images = self.parts[len(x)]
        if onto is None:
            out = convolve(_pixels(x, images), self.packed, self.bias, *window, "none", [], "")
        else:
            operands = _pixels(x, images), _pixels(onto, images), self.packed, self.bias
            out = convolve.binary(*operands, *window, "add", None, None, [], None)
        return out.as_strided((len(x), self.out_features), (self.out_features, 1))

    def _pack(self, weight: Tensor, rows: int) -> Tensor:
        image = [1, self.in_features, 1, rows]
        return torch.ops.mkldnn._reorder_convolution_weight(weight[:, :, None, None], [0, 0], [1, 1], [1, 1], 1, image)

    def _suits(self, most: int, weight: Tensor) -> Callable[[int], bool]:
        order = torch.ops.mkldnn._get_mkldnn_serialized_md
        ours = order(self.packed)
        return lambda pixels: torch.equal(order(self._pack(weight, pixels)), ours)


class HalfLinear(DividedLinear):
    """Weights in 16 bits, products and sums in float32, by FBGEMM: half the memory to read.

    With AVX2 a product of up to 6 rows takes 0.45 times the time, one of 16 rows 0.6 to 0.9, and from 64 rows on the
    same; with AVX-512 0.5 to 0.7, 0.7 to 0.95, and 0.9 to 1.3. With AVX2 blocks of one or two rows are summed in
    another order; numbers of rows that would end in one are divided.
    """

    @staticmethod
    def holds(weight: Tensor) -> bool:
        """Whether the weights lose no more than a product in float32 is off by: those of a checkpoint of 16 bits do
        not, but for the last bits of the smallest."""
        wide, half = weight.float(), weight.half()
        return bool(half.isfinite().all() and (wide - half).norm() <= _LOST * wide.norm())

    @property
    def way(self) -> str:
        return "packed in float16, computed in float32"

    def product(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """The same, for `padded` numbers of rows."""
        parts = self.parts[len(x)]
        if parts == 1:
            out = self._multiply(x)
        else:
            out = torch.cat([self._multiply(part) for part in x.split(len(x) // parts)])
        return out if onto is None else out.add_(onto)

    def _multiply(self, x: Tensor) -> Tensor:
        return torch.ops.quantized.linear_dynamic_fp16(x, self.packed)

    def _pack(self, weight: Tensor, rows: int) -> Any:
        return torch.ops.quantized.linear_prepack_fp16(weight, self.bias)

    def _suits(self, most: int, weight: Tensor) -> Callable[[int], bool]:
        x = torch.randn(most, self.in_features, generator=torch.Generator().manual_seed(1))
        few = torch.cat([self._multiply(some) for some in x.split(padded(1))])
        return lambda count: torch.equal(self._multiply(x[:count]), few[:count])


def _pixels(rows: Tensor, images: int) -> Tensor:
    """Rows `[n, size]` as images one pixel high, `[images, size, 1, n / images]`, where they lie."""
    count, size = rows.shape
    width = count // images
    return rows.contiguous().as_strided((images, size, 1, width), (width * size, 1, width * size, size))


def _split(rows: Tensor | None, size: int) -> Iterable[Tensor | None]:
    return repeat(None) if rows is None else rows.split(size)
