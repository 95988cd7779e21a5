"""Attention of a decode step on a GPU: one new token a row, all rows in one call, lengths and places on the device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from server.engine import kernels
from server.engine.attention import Layer
from server.engine.kv_cache import RowCache

_KEYS, _WARPS, _STAGES = 128, 4, 2
"""Keys that are worked on at a time, and how: what was fastest on an H200, of eight ways."""
_WORTH = 256
"""Keys that are worth a program of their own: to put parts together takes as long as a few hundred."""
_PROGRAMS = 256
"""About as many programs as keep every processor of a large GPU busy with reading."""
_MOST_PARTS = 32
"""Into which the keys of a row are divided: one program puts them together."""
_MOST_HEADS = 256
"""KV heads that there is a counter for."""
_LEAST = 16
"""The smallest side of a product on tensor cores."""


class Turn(NamedTuple):
    """What is done with queries and keys before they meet. cosines, sines: `[context, dim]`, of every position; norms:
    the weights of their RMS norms `[dim]`, if there are any, and epsilon."""

    cosines: Tensor
    sines: Tensor
    norms: tuple[Tensor, Tensor] | None
    epsilon: float


@dataclass(slots=True)
class Table:
    """Where the KV memory of rows is, and how much of it is used, on the device.

    addresses: int64 `[2, layers, rows]`, of keys and of values. capacities: int32 `[rows]`. places: int32 `[2, rows]`,
    the length of each row, which counts the token that is being computed, and that token's position. moving: int32
    `[rows]`, 1, or 0 for rows that nobody needs, which stay where they are. counts: int32, all 0 between kernels.
    """

    addresses: Tensor
    capacities: Tensor
    places: Tensor
    moving: Tensor
    counts: Tensor

    @staticmethod
    def empty(layers: int, rows: int, device: torch.device) -> "Table":
        """A table to be filled."""
        capacities, moving, *places = torch.zeros(4, rows, dtype=torch.int32, device=device)
        addresses = torch.zeros(2, layers, rows, dtype=torch.int64, device=device)
        counts = torch.zeros(rows * _MOST_HEADS, dtype=torch.int32, device=device)
        return Table(addresses, capacities, torch.stack(places), moving, counts)

    def first(self, rows: int) -> "Table":
        """Its first rows, as views."""
        places = self.places[:, :rows]
        return Table(self.addresses[:, :, :rows], self.capacities[:rows], places, self.moving[:rows], self.counts)

    @property
    def positions(self) -> Tensor:
        """Of the tokens that are being computed, int32 `[rows]`."""
        return self.places[1]

    def fill(self, caches: Sequence[RowCache], starts: Sequence[int], moving: int) -> None:
        """Take in all rows: their memory, the positions of their new tokens, and how many of them, the first, move on.

        It waits for the device: so it is called when rows join or leave, not at each step.
        """
        addresses = torch.tensor([cache.addresses for cache in caches]).permute(2, 1, 0)
        sizes = torch.tensor([[cache.capacity for cache in caches], [start + 1 for start in starts]])
        self.addresses.copy_(addresses)
        self.capacities.copy_(sizes[0])
        self.places.copy_(torch.stack([sizes[1], sizes[1] - 1]))
        self.moving.copy_(torch.arange(len(caches)) < moving)

    def advance(self) -> None:
        """Every row that moves is one token further."""
        self.places.add_(self.moving)

    def attend(self, layer: Layer, query: Tensor, key: Tensor, value: Tensor, turn: Turn | None = None) -> Tensor:
        """Attention of the new tokens: query `[1, heads, rows, dim]` to `[1, rows, heads, dim]`; stores key and value,
        `[1, kv_heads, rows, dim]`."""
        _, heads, rows, dim = query.shape
        kv_heads, value_dim = key.shape[1], value.shape[3]
        if kv_heads > _MOST_HEADS:
            raise ValueError(f"a layer has {kv_heads} KV heads; at most {_MOST_HEADS} are served here")
        group = heads // kv_heads
        sizes = {"DIM": dim, "VALUE_DIM": value_dim}
        sizes |= {f"{name}_2": max(_LEAST, triton.next_power_of_2(size)) for name, size in sizes.items()}
        # A head's numbers must lie side by side; mostly they do.
        query, key, value = (x if x.stride(3) == 1 else x.contiguous() for x in (query, key, value))
        strides = [x.stride(side) for x in (query, key, value) for side in (2, 1)]
        parts = triton.next_power_of_2(max(1, min(_PROGRAMS // (rows * kv_heads), _MOST_PARTS)))
        partial = query.new_empty(rows, heads, parts, sizes["VALUE_DIM_2"], dtype=torch.float32)
        sums = partial.new_empty(rows, heads, parts, 2)
        out = query.new_empty(rows, heads, value_dim)
        cosines, sines, norms, epsilon = turn or (query, query, None, 0.0)
        chained = turn is not None and kernels.chained(query.device)
        kernels.attend[(rows, kv_heads, parts)](
            query, key, value, *self.addresses[:, layer.number], self.capacities, self.places, cosines, sines,
            *(norms or (query, query)), partial, sums, self.counts, out, *strides,
            dim**-0.5 if layer.scaling is None else layer.scaling, layer.softcap or 1.0, layer.window or 0, epsilon,
            GROUP=group, GROUP_2=max(_LEAST, triton.next_power_of_2(group)), KEYS=_KEYS, LEAST=_WORTH, PARTS=parts,
            CAPPED=layer.softcap is not None, NORMED=norms is not None, TURNED=turn is not None,
            CHAINED=chained, num_warps=_WARPS, num_stages=_STAGES, **sizes, **({"launch_pdl": True} if chained else {}),
        )  # fmt: skip
        return out[None]
