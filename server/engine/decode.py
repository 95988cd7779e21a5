"""Attention of a decode step on a GPU: one new token a row, all rows in one call, lengths and places on the device."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from server.engine import kernels
from server.engine.attention import Layer
from server.engine.kv_cache import RowCache

_KEYS = 64
"""Keys that are worked on at a time."""
_PROGRAMS = 256
"""About as many programs as keep every processor of a large GPU busy with reading."""
_LEAST = 16
"""The smallest side of a product on tensor cores."""


@dataclass(slots=True)
class Table:
    """Where the KV memory of rows is, and how much of it is used, on the device.

    addresses: int64 `[2, layers, rows]`, of keys and of values. capacities, lengths: int32 `[rows]`; the length of a
    row counts the token that is being computed. positions: int64 `[rows]`, of that token. moving: int32 `[rows]`, 1, or
    0 for rows that nobody needs, which stay where they are.
    """

    addresses: Tensor
    capacities: Tensor
    lengths: Tensor
    moving: Tensor
    positions: Tensor

    @staticmethod
    def empty(layers: int, rows: int, device: torch.device) -> "Table":
        """A table to be filled."""
        capacities, lengths, moving = torch.zeros(3, rows, dtype=torch.int32, device=device)
        places = torch.zeros(2 * layers + 1, rows, dtype=torch.int64, device=device)
        return Table(places[:-1].view(2, layers, rows), capacities, lengths, moving, places[-1])

    def first(self, rows: int) -> "Table":
        """Its first rows, as views."""
        columns = (self.capacities, self.lengths, self.moving, self.positions)
        return Table(self.addresses[:, :, :rows], *(column[:rows] for column in columns))

    def fill(self, caches: Sequence[RowCache], starts: Sequence[int], moving: int) -> None:
        """Take in all rows: their memory, the positions of their new tokens, and how many of them, the first, move on.

        It waits for the device: so it is called when rows join or leave, not at each step.
        """
        addresses = torch.tensor([cache.addresses for cache in caches]).permute(2, 1, 0)
        sizes = torch.tensor([[cache.capacity for cache in caches], [start + 1 for start in starts]])
        self.addresses.copy_(addresses)
        self.capacities.copy_(sizes[0])
        self.lengths.copy_(sizes[1])
        self.positions.copy_(sizes[1] - 1)
        self.moving.copy_(torch.arange(len(caches)) < moving)

    def advance(self) -> None:
        """Every row that moves is one token further."""
        self.lengths.add_(self.moving)
        self.positions.add_(self.moving)

    def attend(self, layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of the new tokens: query `[1, heads, rows, dim]` to `[1, rows, heads, dim]`; stores key and value,
        `[1, kv_heads, rows, dim]`."""
        _, heads, rows, dim = query.shape
        kv_heads, value_dim = key.shape[1], value.shape[3]
        group = heads // kv_heads
        sizes = {"DIM": dim, "VALUE_DIM": value_dim}
        sizes |= {f"{name}_2": max(_LEAST, triton.next_power_of_2(size)) for name, size in sizes.items()}
        # A head's numbers must lie side by side; mostly they do.
        query, key, value = (x if x.stride(3) == 1 else x.contiguous() for x in (query, key, value))
        where = (*self.addresses[:, layer.number], self.capacities, self.lengths)
        strides = (key.stride(2), key.stride(1), value.stride(2), value.stride(1))
        kernels.store[(rows, kv_heads)](key, value, *where, *strides, **sizes)
        splits = max(1, min(_PROGRAMS // (rows * kv_heads), 64))
        partial = query.new_empty(rows, heads, splits, sizes["VALUE_DIM_2"], dtype=torch.float32)
        sums = partial.new_empty(rows, heads, splits, 2)
        kernels.attend[(rows, kv_heads, splits)](
            query, *where, partial, sums, query.stride(2), query.stride(1),
            dim**-0.5 if layer.scaling is None else layer.scaling, layer.softcap or 1.0, layer.window or 0, splits,
            GROUP=group, GROUP_2=max(_LEAST, triton.next_power_of_2(group)), KEYS=_KEYS,
            CAPPED=layer.softcap is not None, **sizes,
        )  # fmt: skip
        out = query.new_empty(rows, heads, value_dim)
        kernels.combine[(rows, heads)](
            partial, sums, out, splits, SPLITS_2=triton.next_power_of_2(splits), VALUE_DIM=value_dim,
            VALUE_DIM_2=sizes["VALUE_DIM_2"],
        )  # fmt: skip
        return out[None]
