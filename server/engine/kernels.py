"""Triton kernels of a decode step's attention: one new token a row, each row over its own KV memory, wherever that is.

The address of a row's memory and its length are read on the device, so that a captured CUDA graph serves any rows.
Keys and values of a row are `[kv_heads, capacity, dim]`. `server.engine.decode` calls all of this.
"""

import triton
import triton.language as tl

_NONE = tl.constexpr(float("-inf"))


@triton.jit
def store(
    keys, values, key_at, value_at, capacities, lengths, key_token, key_head, value_token, value_head,
    DIM: tl.constexpr, VALUE_DIM: tl.constexpr, DIM_2: tl.constexpr, VALUE_DIM_2: tl.constexpr,
):  # fmt: skip
    """Put the keys and values of the new tokens in their places. Grid (rows, kv_heads).

    keys, values: of token t and head h at t * key_token + h * key_head and so on. key_at, value_at: int64 `[rows]`,
    addresses. capacities, lengths: int32 `[rows]`; a length counts the new token.
    """
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    kind = tl.pointer_type(keys.dtype.element_ty)
    place = head * tl.load(capacities + row) + tl.load(lengths + row) - 1
    d = tl.arange(0, DIM_2)
    key = tl.load(keys + row * key_token + head * key_head + d, mask=d < DIM)
    tl.store(tl.load(key_at + row).to(kind) + place * DIM + d, key, mask=d < DIM)
    d = tl.arange(0, VALUE_DIM_2)
    value = tl.load(values + row * value_token + head * value_head + d, mask=d < VALUE_DIM)
    tl.store(tl.load(value_at + row).to(kind) + place * VALUE_DIM + d, value, mask=d < VALUE_DIM)


@triton.jit
def attend(
    queries, key_at, value_at, capacities, lengths, partial, sums, query_token, query_head, scale, cap, window, splits,
    GROUP: tl.constexpr, GROUP_2: tl.constexpr, DIM: tl.constexpr, VALUE_DIM: tl.constexpr, DIM_2: tl.constexpr,
    VALUE_DIM_2: tl.constexpr, KEYS: tl.constexpr, CAPPED: tl.constexpr,
):  # fmt: skip
    """Attention of the query heads that share a KV head over a part of a row's keys. Grid (rows, kv_heads, splits).

    window: how many of the last tokens are seen, 0 for all. partial: float32 `[rows, heads, splits, VALUE_DIM_2]`,
    weighted sums of values, not normalised; sums: float32 `[rows, heads, splits, 2]`, the largest score and the sum.
    """
    row, head, split = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2)
    heads = tl.num_programs(1) * GROUP
    kind = tl.pointer_type(queries.dtype.element_ty)
    length, capacity = tl.load(lengths + row), tl.load(capacities + row)
    keys = tl.load(key_at + row).to(kind) + head * capacity * DIM
    values = tl.load(value_at + row).to(kind) + head * capacity * VALUE_DIM
    begin = tl.where(window > 0, tl.maximum(length - window, 0), 0)
    share = tl.cdiv(tl.cdiv(length - begin, splits), KEYS) * KEYS
    first = begin + split * share
    last = tl.minimum(first + share, length)

    g, d, e, n = tl.arange(0, GROUP_2), tl.arange(0, DIM_2), tl.arange(0, VALUE_DIM_2), tl.arange(0, KEYS)
    place = row * query_token + (head * GROUP + g)[:, None] * query_head + d[None]
    query = tl.load(queries + place, mask=(g < GROUP)[:, None] & (d < DIM)[None], other=0.0)
    most = tl.full([GROUP_2], _NONE, tl.float32)
    total = tl.zeros([GROUP_2], tl.float32)
    out = tl.zeros([GROUP_2, VALUE_DIM_2], tl.float32)
    for start in range(first, last, KEYS):
        at = start + n
        seen = at < last
        key = tl.load(keys + at[None] * DIM + d[:, None], mask=seen[None] & (d < DIM)[:, None], other=0.0)
        score = tl.dot(query, key, input_precision="ieee") * scale
        if CAPPED:
            # tanh by way of a sigmoid, which Triton has everywhere
            score = cap * (2.0 * tl.sigmoid(2.0 * score / cap) - 1.0)
        score = tl.where(seen[None], score, _NONE)
        higher = tl.maximum(most, tl.max(score, 1))
        p = tl.exp(score - higher[:, None])
        shrunk = tl.exp(most - higher)
        value = tl.load(
            values + at[:, None] * VALUE_DIM + e[None], mask=seen[:, None] & (e < VALUE_DIM)[None], other=0.0
        )
        out = out * shrunk[:, None] + tl.dot(p.to(value.dtype), value, input_precision="ieee")
        total = total * shrunk + tl.sum(p, 1)
        most = higher
    to = (row * heads + head * GROUP + g) * splits + split
    tl.store(partial + to[:, None] * VALUE_DIM_2 + e[None], out, mask=(g < GROUP)[:, None])
    tl.store(sums + to * 2, most, mask=g < GROUP)
    tl.store(sums + to * 2 + 1, total, mask=g < GROUP)


@triton.jit
def combine(partial, sums, out, splits, SPLITS_2: tl.constexpr, VALUE_DIM: tl.constexpr, VALUE_DIM_2: tl.constexpr):
    """The parts together. Grid (rows, heads). out: `[rows, heads, VALUE_DIM]`."""
    at = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    s, e = tl.arange(0, SPLITS_2), tl.arange(0, VALUE_DIM_2)
    there = s < splits
    most = tl.load(sums + (at * splits + s) * 2, mask=there, other=_NONE)
    total = tl.load(sums + (at * splits + s) * 2 + 1, mask=there, other=0.0)
    factor = tl.exp(most - tl.max(most, 0))
    parts = tl.load(partial + (at * splits + s)[:, None] * VALUE_DIM_2 + e[None], mask=there[:, None], other=0.0)
    result = tl.sum(parts * factor[:, None], 0) / tl.sum(total * factor, 0)
    tl.store(out + at * VALUE_DIM + e, result.to(out.dtype.element_ty), mask=e < VALUE_DIM)
