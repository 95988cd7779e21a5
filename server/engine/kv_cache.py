"""KV memory: each generation has its own, of the size that it can come to need."""

from typing import NamedTuple

import torch
from torch import Tensor

Block = dict[int, tuple[Tensor, Tensor]]
"""Keys and values `[1, kv_heads, n, head_dim]` of some positions in a row, by layer."""


class Layout(NamedTuple):
    """A row's keys and values where all layers are alike."""

    layers: int
    heads: int
    dim: int
    dtype: torch.dtype


class RowCache:
    """Keys and values of one generation, `[1, kv_heads, capacity, head_dim]` a layer.

    The memory is reserved, not cleared: on the CPU a page costs nothing before it is written. Only what was written
    is ever read, so nothing of an earlier generation, not even a NaN, can reach a later one.
    """

    def __init__(self, capacity: int, layout: Layout | None = None) -> None:
        """layout: if all layers are alike; then they lie in one tensor, on the CPU."""
        self.capacity = capacity
        self._layers: Block = {}
        if layout is not None:
            size = (layout.layers, 2, 1, layout.heads, capacity, layout.dim)
            self._all = torch.empty(size, dtype=layout.dtype)
            self._layers = {number: (both[0], both[1]) for number, both in enumerate(self._all.unbind(0))}

    def write(self, layer: int, start: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put keys and values `[1, kv_heads, n, dim]` at position `start`; all up to there, as views."""
        if layer not in self._layers:
            self._layers[layer] = (self._reserve(keys), self._reserve(values))
        stop = start + keys.shape[2]
        stored_keys, stored_values = self._layers[layer]
        stored_keys[:, :, start:stop] = keys
        stored_values[:, :, start:stop] = values
        return stored_keys[:, :, :stop], stored_values[:, :, :stop]

    def places(self, start: int, stop: int) -> list[Tensor]:
        """Of every layer keys and values of these positions, `[2, 1, heads, n, dim]`, to be written. Only with a
        layout."""
        return list(self._all.narrow(4, start, stop - start).unbind(0))

    def seen(self, start: int, stop: int) -> list[Tensor]:
        """The same to be read: keys of the first layer, its values, keys of the second, ..., `[1, heads, n, dim]`."""
        return list(self._all.narrow(4, start, stop - start).flatten(0, 1).unbind(0))

    @property
    def address(self) -> int:
        """Where they all are, `[layers, 2, 1, heads, capacity, dim]`. Only with a layout."""
        return self._all.data_ptr()

    def get(self, start: int, stop: int) -> Block:
        """A copy of positions `start` to `stop` in all layers."""
        return {
            layer: (keys[:, :, start:stop].clone(), values[:, :, start:stop].clone())
            for layer, (keys, values) in self._layers.items()
        }

    def put(self, start: int, block: Block) -> None:
        """Put a copy back at position `start`."""
        for layer, (keys, values) in block.items():
            self.write(layer, start, keys, values)

    def _reserve(self, like: Tensor) -> Tensor:
        return torch.empty(1, like.shape[1], self.capacity, like.shape[3], dtype=like.dtype, device=like.device)

    @property
    def addresses(self) -> list[tuple[int, int]]:
        """Where the keys and the values of each layer are, once all layers were written."""
        layers = (self._layers[layer] for layer in sorted(self._layers))
        return [(keys.data_ptr(), values.data_ptr()) for keys, values in layers]

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one position over all layers that were written."""
        return sum(
            part.shape[1] * part.shape[3] * part.element_size() for layer in self._layers.values() for part in layer
        )
