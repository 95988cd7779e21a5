"""Triton kernels of a decode step: one new token a row, each row over its own KV memory, wherever that is.

The address of a row's memory and its length are read on the device, so that a captured CUDA graph serves any rows.
`server.engine.decode` and `server.engine.fused` call all of this.
"""

from functools import cache

import torch
import triton
import triton.language as tl

_NONE = tl.constexpr(float("-inf"))


@cache
def chained(device: torch.device) -> bool:
    """Whether a kernel can be launched there before the one before it is done (Hopper and later)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


@triton.jit
def product(
    x, norm, weight, bias, out, width, height, epsilon,
    NORMED: tl.constexpr, GATED: tl.constexpr, ADDED: tl.constexpr, BIASED: tl.constexpr, CHAINED: tl.constexpr,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """out = f(x) @ weight.T, `[rows, height]`; x `[rows, width]`, weight `[height, width]`. Grid (parts of height,
    rows).

    NORMED: f is RMS norm, with weights `norm` and this epsilon. GATED: weight is `[2 * height, width]`, gate and up,
    and out is silu(gate) * up. ADDED: the product is added to what is in out. CHAINED: launched before the kernel
    before it is done, so that the first weights are there when it is.
    """
    h = tl.program_id(0) * HEIGHT + tl.arange(0, HEIGHT)
    row = tl.program_id(1).to(tl.int64)
    c = tl.arange(0, WIDTH)
    high = h < height
    from_weight = weight + h[:, None].to(tl.int64) * width + c[None]
    up = height.to(tl.int64) * width
    there = c < width
    part = tl.load(from_weight, mask=high[:, None] & there[None], other=0.0)
    if GATED:
        part_2 = tl.load(from_weight + up, mask=high[:, None] & there[None], other=0.0)
    if CHAINED:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    from_x = x + row * width + c
    given = tl.load(from_x, mask=there, other=0.0).to(tl.float32)
    if NORMED:
        squares = given * given
        given = given * tl.load(norm + c, mask=there, other=0.0).to(tl.float32)
    sums = part.to(tl.float32) * given[None]
    if GATED:
        sums_2 = part_2.to(tl.float32) * given[None]
    for start in tl.range(WIDTH, width, WIDTH, num_stages=STAGES):
        there = c < width - start
        part = tl.load(from_weight + start, mask=high[:, None] & there[None], other=0.0)
        given = tl.load(from_x + start, mask=there, other=0.0).to(tl.float32)
        if NORMED:
            squares += given * given
            given = given * tl.load(norm + start + c, mask=there, other=0.0).to(tl.float32)
        sums += part.to(tl.float32) * given[None]
        if GATED:
            part_2 = tl.load(from_weight + up + start, mask=high[:, None] & there[None], other=0.0)
            sums_2 += part_2.to(tl.float32) * given[None]
    result = tl.sum(sums, 1)
    if NORMED:
        factor = tl.rsqrt(tl.sum(squares, 0) / width + epsilon)
        result = result * factor
    if BIASED:
        result += tl.load(bias + h, mask=high, other=0.0).to(tl.float32)
    if GATED:
        other = tl.sum(sums_2, 1)
        if NORMED:
            other = other * factor
        if BIASED:
            other += tl.load(bias + height + h, mask=high, other=0.0).to(tl.float32)
        result = result * tl.sigmoid(result) * other
    to = out + row * height + h
    if ADDED:
        result += tl.load(to, mask=high, other=0.0).to(tl.float32)
    tl.store(to, result.to(out.dtype.element_ty), mask=high)


@triton.jit
def normed(x, norm, out, width, epsilon, WIDTH: tl.constexpr):
    """RMS norm of rows `[rows, width]`. Grid (rows)."""
    c = tl.arange(0, WIDTH)
    at = tl.program_id(0).to(tl.int64) * width + c
    given = tl.load(x + at, mask=c < width, other=0.0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(given * given, 0) / width + epsilon)
    result = given * factor * tl.load(norm + c, mask=c < width, other=0.0).to(tl.float32)
    tl.store(out + at, result.to(out.dtype.element_ty), mask=c < width)


@triton.jit
def gated(both, out, width, WIDTH: tl.constexpr):
    """silu(gate) * up, `[rows, width]`, of `[rows, 2 * width]`. Grid (parts of width, rows)."""
    c = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    row = tl.program_id(1).to(tl.int64)
    gate = tl.load(both + row * 2 * width + c, mask=c < width, other=0.0).to(tl.float32)
    up = tl.load(both + (row * 2 + 1) * width + c, mask=c < width, other=0.0).to(tl.float32)
    tl.store(out + row * width + c, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=c < width)


@triton.jit
def _headed(x, swapped, norm, norm_swapped, cosine, sine, epsilon, DIM: tl.constexpr, NORMED: tl.constexpr):
    """Heads `[n, DIM_2]` after norm and rotary embedding. swapped: the heads with their halves swapped, norm_swapped:
    the weights of the norm, and sine, negative in the first half: to go with it."""
    x, swapped = x.to(tl.float32), swapped.to(tl.float32)
    if NORMED:
        factor = tl.rsqrt(tl.sum(x * x, 1) / DIM + epsilon)[:, None]
        x = x * factor * norm[None]
        swapped = swapped * factor * norm_swapped[None]
    return x * cosine[None] + swapped * sine[None]


@triton.jit
def _attended(
    query, keys, values, first, last, n, d, e, scale, cap, most, total, mixed,
    DIM: tl.constexpr, VALUE_DIM: tl.constexpr, CAPPED: tl.constexpr,
):  # fmt: skip
    """(most, total, mixed) after the keys and values at first + n, up to last."""
    place = first + n
    seen = place < last
    key = tl.load(keys + place[None] * DIM + d[:, None], mask=seen[None] & (d < DIM)[:, None], other=0.0)
    value = tl.load(
        values + place[:, None] * VALUE_DIM + e[None], mask=seen[:, None] & (e < VALUE_DIM)[None], other=0.0
    )
    score = _capped(tl.dot(query, key, input_precision="ieee") * scale, cap, CAPPED)
    score = tl.where(seen[None], score, _NONE)
    higher = tl.maximum(most, tl.max(score, 1))
    p = tl.exp(score - higher[:, None])
    shrunk = tl.exp(most - higher)
    mixed = mixed * shrunk[:, None] + tl.dot(p.to(value.dtype), value, input_precision="ieee")
    return higher, total * shrunk + tl.sum(p, 1), mixed


@triton.jit
def _capped(score, cap, CAPPED: tl.constexpr):
    # tanh by way of a sigmoid, which Triton has everywhere
    return cap * (2.0 * tl.sigmoid(2.0 * score / cap) - 1.0) if CAPPED else score


@triton.jit
def attend(
    queries, keys, values, key_at, value_at, capacities, lengths, cosines, sines, query_norm, key_norm, partial, sums,
    counts, out, query_token, query_head, key_token, key_head, value_token, value_head, scale, cap, window, epsilon,
    GROUP: tl.constexpr, GROUP_2: tl.constexpr, DIM: tl.constexpr, VALUE_DIM: tl.constexpr, DIM_2: tl.constexpr,
    VALUE_DIM_2: tl.constexpr, KEYS: tl.constexpr, LEAST: tl.constexpr, PARTS: tl.constexpr, CAPPED: tl.constexpr,
    NORMED: tl.constexpr, TURNED: tl.constexpr, CHAINED: tl.constexpr,
):  # fmt: skip
    """Attention of the query heads that share a KV head over a part of a row's keys; the first part has the new key and
    value, too, and puts them in their places. Grid (rows, kv_heads, PARTS).

    queries, keys, values: of token t and head h at t * query_token + h * query_head and so on. key_at, value_at: int64
    `[rows]`, addresses of `[kv_heads, capacity, dim]`. capacities, lengths: int32 `[rows]`; a length counts the new
    token. window: how many of the last tokens are seen, 0 for all. NORMED, TURNED: queries and keys get their RMS norm
    and rotary embedding here; cosines, sines: `[context, DIM]`. LEAST: keys that are worth a part.

    partial: float32 `[rows, heads, PARTS, VALUE_DIM_2]`, weighted sums of values, not normalised; sums: float32 `[rows,
    heads, PARTS, 2]`, the largest score and the sum. The program that is done last puts the parts together. counts:
    int32 `[rows, kv_heads]`, 0 before and after. out: `[rows, heads, VALUE_DIM]`.
    """
    row, head, part = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2)
    heads = tl.num_programs(1) * GROUP
    kind = tl.pointer_type(queries.dtype.element_ty)
    old, capacity = tl.load(lengths + row) - 1, tl.load(capacities + row)
    # Without the hint that addresses are aligned, keys would be read two bytes at a time.
    key_to = tl.multiple_of(tl.load(key_at + row).to(kind), 16) + head * capacity * DIM
    value_to = tl.multiple_of(tl.load(value_at + row).to(kind), 16) + head * capacity * VALUE_DIM
    begin = tl.where(window > 0, tl.maximum(old + 1 - window, 0), 0)
    share = tl.maximum(tl.cdiv(tl.cdiv(old - begin, PARTS), KEYS) * KEYS, LEAST)
    parts = tl.maximum(tl.cdiv(old - begin, share), 1)
    g, d, e, n = tl.arange(0, GROUP_2), tl.arange(0, DIM_2), tl.arange(0, VALUE_DIM_2), tl.arange(0, KEYS)
    across = (d + DIM // 2) % DIM
    ours, inside = (g < GROUP)[:, None], (d < DIM)[None]
    if CHAINED:
        tl.extra.cuda.gdc_launch_dependents()
    if part < parts:
        if TURNED:
            turn = old.to(tl.int64) * DIM
            cosine = tl.load(cosines + turn + d, mask=d < DIM, other=0.0).to(tl.float32)
            sine = tl.load(sines + turn + d, mask=d < DIM, other=0.0).to(tl.float32)
            sine = tl.where(d < DIM // 2, -sine, sine)
        if CHAINED:
            tl.extra.cuda.gdc_wait()
        at = queries + row * query_token + (head * GROUP + g)[:, None] * query_head
        query = tl.load(at + d[None], mask=ours & inside, other=0.0)
        if TURNED:
            swapped = tl.load(at + across[None], mask=ours & inside, other=0.0)
            norm = tl.load(query_norm + d, mask=d < DIM, other=0.0).to(tl.float32)
            norm_swapped = tl.load(query_norm + across, mask=d < DIM, other=0.0).to(tl.float32)
            turned = _headed(query, swapped, norm, norm_swapped, cosine, sine, epsilon, DIM, NORMED)
            query = turned.to(query.dtype)
        most = tl.full([GROUP_2], _NONE, tl.float32)
        total = tl.zeros([GROUP_2], tl.float32)
        mixed = tl.zeros([GROUP_2, VALUE_DIM_2], tl.float32)
        if part == 0:
            one = tl.zeros([1, 1], tl.int64) + row * key_token + head * key_head
            new = tl.load(keys + one + d[None], mask=inside, other=0.0)
            if TURNED:
                swapped_key = tl.load(keys + one + across[None], mask=inside, other=0.0)
                key_weight = tl.load(key_norm + d, mask=d < DIM, other=0.0).to(tl.float32)
                key_swapped = tl.load(key_norm + across, mask=d < DIM, other=0.0).to(tl.float32)
                turned_key = _headed(new, swapped_key, key_weight, key_swapped, cosine, sine, epsilon, DIM, NORMED)
                new = turned_key.to(new.dtype)
            tl.store(key_to + old * DIM + d[None], new, mask=inside)
            value = tl.load(values + row * value_token + head * value_head + e, mask=e < VALUE_DIM, other=0.0)
            tl.store(value_to + old * VALUE_DIM + e, value, mask=e < VALUE_DIM)
            most = _capped(tl.sum(query.to(tl.float32) * new.to(tl.float32), 1) * scale, cap, CAPPED)
            total += 1.0
            mixed += value.to(tl.float32)[None]
        first = begin + part * share
        last = tl.minimum(first + share, old)
        for start in range(first, last, KEYS):
            most, total, mixed = _attended(
                query, key_to, value_to, start, last, n, d, e, scale, cap, most, total, mixed, DIM, VALUE_DIM, CAPPED
            )
        if parts == 1:
            to = (row * heads + head * GROUP + g)[:, None] * VALUE_DIM + e[None]
            tl.store(out + to, (mixed / total[:, None]).to(out.dtype.element_ty), mask=ours & (e < VALUE_DIM)[None])
        else:
            own = (row * heads + head * GROUP + g) * PARTS + part
            tl.store(partial + own[:, None] * VALUE_DIM_2 + e[None], mixed, mask=ours)
            tl.store(sums + own * 2, most, mask=g < GROUP)
            tl.store(sums + own * 2 + 1, total, mask=g < GROUP)
            tl.debug_barrier()
            count = counts + row * tl.num_programs(1) + head
            if tl.atomic_add(count, 1, sem="acq_rel") == parts - 1:
                tl.store(count, 0)
                every = tl.arange(0, PARTS)
                there = every < parts
                for one_of in range(GROUP):
                    one_head = row * heads + head * GROUP + one_of
                    from_ = one_head * PARTS + every
                    tops = tl.load(sums + from_ * 2, mask=there, other=_NONE, cache_modifier=".cg")
                    masses = tl.load(sums + from_ * 2 + 1, mask=there, other=0.0, cache_modifier=".cg")
                    pieces = tl.load(
                        partial + from_[:, None] * VALUE_DIM_2 + e[None], mask=there[:, None], other=0.0,
                        cache_modifier=".cg",
                    )  # fmt: skip
                    factor = tl.exp(tops - tl.max(tops, 0))
                    result = tl.sum(pieces * factor[:, None], 0) / tl.sum(masses * factor, 0)
                    tl.store(out + one_head * VALUE_DIM + e, result.to(out.dtype.element_ty), mask=e < VALUE_DIM)
