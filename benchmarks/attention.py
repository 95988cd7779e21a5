"""Attention of a decode step on a GPU beside torch's own, all as CUDA graphs: part of `make bench-gpu`."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention as sdpa

from benchmarks.gpu import seconds
from server.engine.attention import Layer
from server.engine.decode import Table
from server.engine.graphs import Recorder
from server.engine.kv_cache import RowCache

HEAD = [
    "| rows | keys each | KV memory read once, µs | attention, µs | SDPA, µs | FlexAttention, µs |",
    "|" + "---|" * 6,
]


class Attention(NamedTuple):
    """One new token a row over `length` keys in each of some layers of an 8 B model, rows equally long."""

    query: Tensor
    fresh: Tensor
    caches: list[RowCache]
    table: Table

    @staticmethod
    def make(device: torch.device, dtype: torch.dtype, rows: int, length: int, layers: int = 4) -> "Attention":
        """Of random numbers. fresh: key and value of the new tokens, `[2, 1, kv_heads, rows, dim]`."""
        generator = torch.Generator(device).manual_seed(0)
        caches = [RowCache(length) for _ in range(rows)]
        for cache in caches:
            for layer in range(layers):
                old = torch.randn(2, 1, 8, length - 1, 128, device=device, generator=generator).to(dtype)
                cache.write(layer, 0, old[0], old[1])
        new = torch.randn(1, rows, 32 + 2 * 8, 128, device=device, generator=generator).to(dtype).transpose(1, 2)
        table = Table.empty(layers, rows, device)
        table.fill(caches, [length - 1] * rows, 0)
        return Attention(new[:, :32], torch.stack([new[:, 32:40], new[:, 40:]]), caches, table)

    def ours(self, layer: int) -> Tensor:
        """`[1, rows, heads, dim]`."""
        return self.table.attend(Layer(layer, None, None, None), self.query, self.fresh[0], self.fresh[1])

    def memory(self, layer: int, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer in one tensor each, `[rows, kv_heads, length, dim]`, as torch's own want them."""
        both = [
            cache.write(layer, length - 1, *self.fresh[:, :, :, row, None]) for row, cache in enumerate(self.caches)
        ]
        return torch.cat([keys for keys, _ in both]), torch.cat([values for _, values in both])


def line(device: torch.device, dtype: torch.dtype, rows: int, length: int, speed: float, calls: int) -> str:
    """A line of the attention's table."""
    case = Attention.make(device, dtype, rows, length)
    layers = range(case.table.addresses.shape[1])
    memory = [case.memory(layer, length) for layer in layers]
    query = case.query[0].transpose(0, 1)[:, :, None]

    def torchs(attend: Callable[..., Any]) -> Callable[[], list[Tensor]]:
        return lambda: [attend(query, keys, values, enable_gqa=True) for keys, values in memory]

    ways: list[Callable[[], list[Tensor]]] = [lambda: [case.ours(layer) for layer in layers], torchs(sdpa)]
    if device.type == "cuda":
        ways.append(torchs(torch.compile(flex_attention, dynamic=False)))
    expected = ways[1]()
    taken = []
    for way in ways:
        try:
            results = way()
        except Exception as fault:  # whatever torch's compiler lacks on this machine
            print(f"one way of attention is left out: {type(fault).__name__}: {str(fault)[:200]}")
            taken.append(float("nan"))
            continue
        for got, one in zip(results, expected, strict=True):
            if not (got.reshape(one.shape) - one).float().norm() < 1e-2 * one.float().norm():
                raise SystemExit(f"attention of {rows} rows of {length}: two ways differ")
        run = Recorder()(partial(_last, way)) if device.type == "cuda" else way
        taken.append(seconds(run, device, calls) / len(layers))
    once = 2 * memory[0][0].numel() * memory[0][0].element_size() / speed
    cells = [f"{rows}", f"{length:,}", f"{1e6 * once:.1f}", *(f"{1e6 * t:.1f}" for t in taken)]
    return "| " + " | ".join(cells) + " |"


def _last(way: Callable[[], list[Tensor]]) -> Tensor:
    return way()[-1]
