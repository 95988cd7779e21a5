"""Attention over a packed step: pieces of several generations side by side, each reading its own KV memory.

Registered with transformers as an attention implementation, so that models run unmodified. A step's tokens lie one
after the other in a single sequence `[1, heads, tokens, dim]`; a segment is the part of one generation.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from server.engine.kv_cache import RowCache

if TYPE_CHECKING:
    from server.engine.decode import Table

NAME = "thermostat"


class Unsupported(Exception):
    """The model asks for an attention that is not built."""


@dataclass(frozen=True, slots=True)
class Segment:
    """`length` tokens of one generation, at positions `start` and on, at `offset` in the packed step."""

    cache: RowCache
    offset: int
    start: int
    length: int

    @property
    def rows(self) -> slice:
        """Its tokens in the packed step."""
        return slice(self.offset, self.offset + self.length)


@dataclass(slots=True)
class Packed:
    """The segments of a step. Masks of prompt pieces are made once and shared by the layers.

    spare: tokens at the end that belong to nobody; they attend to nothing. table: on a GPU, in place of segments, the
    rows of a step in which each computes one token.
    """

    segments: list[Segment]
    spare: int = 0
    masks: dict[tuple[int, int, int], Tensor] = field(default_factory=dict)
    table: Optional["Table"] = None

    def mask(self, segment: Segment, first: int, window: int | None, groups: int, like: Tensor) -> Tensor:
        """Which keys, from position `first` on, each query of a prompt piece sees: bool `[groups * n, keys]`."""
        key = (segment.offset, window or 0, groups)
        if key not in self.masks:
            stop = segment.start + segment.length
            queries = torch.arange(segment.start, stop, device=like.device)[:, None]
            keys = torch.arange(first, stop, device=like.device)[None]
            seen = keys <= queries
            if window:
                seen &= keys > queries - window
            self.masks[key] = seen.repeat(groups, 1)
        return self.masks[key]


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    packed: Packed | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of all segments: `[1, tokens, heads, dim]`. The signature is transformers' own.

    The loop over segments is deliberate. Each generation attends with its own exact length: on the CPU this was
    faster than one padded batch from 16 short rows on (0.44 against 0.57 ms a layer) and much faster when lengths
    differ; and the bits of a generation cannot depend on its company, because it attends alone.
    """
    if packed is None:
        raise Unsupported("its layers do not pass the step's layout on to attention")
    if others.get("s_aux") is not None or others.get("position_bias") is not None:
        raise Unsupported("its attention has sinks or position biases")
    layer = Layer(int(module.layer_idx), scaling, sliding_window, softcap)  # type: ignore[arg-type]
    if packed.table is not None:
        return packed.table.attend(layer, query, key, value), None
    out = []
    for segment in packed.segments:
        part = segment.rows
        out.append(attend_segment(layer, packed, segment, query[:, :, part], key[:, :, part], value[:, :, part]))
    if packed.spare:
        out.append(query.new_zeros(1, query.shape[1], packed.spare, value.shape[3]))
    return torch.cat(out, 2).transpose(1, 2), None


@dataclass(frozen=True, slots=True)
class Layer:
    """What a layer's attention is like: its number, score scale, sliding window in tokens, soft cap of scores."""

    number: int
    scaling: float | None
    window: int | None
    softcap: float | None


def attend_segment(layer: Layer, packed: Packed, segment: Segment, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of one segment, `[1, heads, n, dim]`. Query heads that share keys are taken as further queries."""
    keys, values = segment.cache.write(layer.number, segment.start, key, value)
    first = max(0, segment.start - layer.window + 1) if layer.window else 0
    keys, values = keys[:, :, first:], values[:, :, first:]
    _, heads, n, dim = query.shape
    groups = heads // keys.shape[1]
    query = query.reshape(1, keys.shape[1], groups * n, dim)
    mask = None if n == 1 else packed.mask(segment, first, layer.window, groups, query)
    if layer.softcap is None:
        out = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=layer.scaling)
    else:
        scale = dim**-0.5 if layer.scaling is None else layer.scaling
        out = _soft_capped(query, keys, values, mask, scale, layer.softcap)
    return out.reshape(1, heads, n, -1)


def _soft_capped(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float, cap: float) -> Tensor:
    """Attention with soft-capped scores (Gemma 2), cap * tanh(score / cap), which no fused kernel offers."""
    scores = (query @ keys.transpose(2, 3)) * scale
    scores = torch.tanh(scores / cap) * cap
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype) @ values


AttentionInterface.register(NAME, attend)
