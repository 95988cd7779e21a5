"""The compiled forward gives what the plain one gives, and a row's bits in any company. It needs a C++ compiler."""

import ctypes
import os
import shutil

import pytest
import torch
from torch.nn.functional import rms_norm, silu

from server.engine.kv_cache import Layout, RowCache
from server.engine.loading import ModelSource, load
from server.engine.model import Piece
from server.engine.native import KINDS, Native, _Shape, library, suits
from tests import models

pytestmark = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="only --compile asks for a C++ compiler"
)
EPSILON = 1e-6


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("rows", "size"), [(1, 64), (5, 320), (70, 768)])
def test_norm_adds_in_place_and_is_torchs(rows, size):
    x, more, weight = random(rows, size), random(rows, size, seed=1), random(size, seed=2)
    expected = (x + more).double()
    out = torch.empty_like(x)
    library().norm(x.data_ptr(), more.data_ptr(), weight.data_ptr(), EPSILON, out.data_ptr(), rows, size, 2)
    torch.testing.assert_close(x.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        out.double(), rms_norm(expected, (size,), weight.double(), EPSILON), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(("rows", "size"), [(1, 96), (40, 2048)])
def test_gated_is_torchs_even_far_from_zero(rows, size):
    both = random(rows, 2 * size) * 40
    out = torch.empty(rows, size)
    library().gated(both.data_ptr(), out.data_ptr(), rows, size, 2)
    gate, up = both.double().chunk(2, -1)
    torch.testing.assert_close(out.double(), silu(gate) * up, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("group", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("window", [0, 9])
@pytest.mark.parametrize("normed", [True, False])
def test_attention_is_that_of_float64_over_what_is_stored(dtype, group, window, normed):
    kv_heads, dim, layer, positions = 2, 32, 1, [0, 1, 8, 30, 700]
    rows = len(positions) + 1  # the last is part of a prompt: it is turned alone
    qkv = random(rows, (group + 2) * kv_heads, dim)
    angles = random(rows, dim, seed=1)
    cosines, sines = angles.cos(), angles.sin()
    norms = [random(dim, seed=2), random(dim, seed=3)] if normed else []
    caches, places = [], torch.zeros(rows, 3, dtype=torch.int64)
    for row, position in enumerate(positions):
        cache = RowCache(position + 3, Layout(2, kv_heads, dim, dtype))
        old = random(2, 1, kv_heads, position, dim, seed=row).to(dtype)
        cache.write(layer, 0, old[0], old[1])
        caches.append(cache)
        places[row] = torch.tensor([cache.address, cache.capacity, position])

    wide = qkv.double()
    turned = wide[:, :-kv_heads].clone()
    if normed:
        heads = group * kv_heads
        turned[:, :heads] = rms_norm(turned[:, :heads], (dim,), norms[0].double(), EPSILON)
        turned[:, heads:] = rms_norm(turned[:, heads:], (dim,), norms[1].double(), EPSILON)
    swapped = torch.cat([-turned[..., dim // 2 :], turned[..., : dim // 2]], -1)
    turned = turned * cosines.double()[:, None] + swapped * sines.double()[:, None]

    weights = [norm.data_ptr() for norm in norms] or [None, None]
    shape = _Shape(*weights, layer, kv_heads, group, dim, window, EPSILON, 0.25)
    out = torch.full((rows, kv_heads * group, dim), 7.0)
    addresses = [part.data_ptr() for part in (qkv, cosines, sines, places)]
    library().attend(ctypes.addressof(shape), *addresses, rows, out.data_ptr(), 2, KINDS.index(dtype))

    torch.testing.assert_close(qkv[:, :-kv_heads].double(), turned, rtol=1e-5, atol=1e-5)
    for row, (position, cache) in enumerate(zip(positions, caches, strict=True)):
        keys, values = (part[0] for part in cache.get(0, position + 1)[layer])
        assert torch.equal(keys[:, -1], qkv[row, -2 * kv_heads : -kv_heads].to(dtype))
        assert torch.equal(values[:, -1], qkv[row, -kv_heads:].to(dtype))
        first = max(0, position + 1 - window) if window else 0
        keys, values = (part[:, first:].double().repeat_interleave(group, 0) for part in (keys, values))
        scores = (keys @ turned[row, : kv_heads * group, :, None])[..., 0] * 0.25
        expected = (scores.softmax(-1)[:, None] @ values)[:, 0]
        torch.testing.assert_close(out[row].double(), expected, rtol=1e-4, atol=1e-5)
    assert (out[-1] == 7).all()


LAYERS = models.FAMILIES["llama"] | {"head_dim": 32}
FAMILIES = {
    "llama": LAYERS | {"num_key_value_heads": 1},
    "qwen2": LAYERS | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "qwen3": LAYERS,
    "mistral": LAYERS | {"sliding_window": 8},
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Models with their plain lean forward."""
    folder = tmp_path_factory.mktemp("models")

    def load_one(family, dtype="float32"):
        where = folder / family
        if not where.exists():
            models.make(folder, family, FAMILIES[family])
        return load(ModelSource(str(where), dtype=dtype))[0]

    return load_one


def prompts(count):
    chance = torch.Generator().manual_seed(1)
    lengths = [1, 2, 13, 40, 57, 3, 33, 9][:count]
    return [torch.randint(1, models.VOCAB, (length,), generator=chance).tolist() for length in lengths]


@torch.inference_mode()
def logits(model, texts, late=()):
    """Of every token of some texts, `[tokens, vocab]` each: the first half of a text as a piece of a prompt, then token
    by token, all side by side. late: those that begin some steps after the others."""
    none = torch.zeros(0, dtype=torch.int64)
    caches = [model.cache(len(text)) for text in texts]
    found, done = [[] for _ in texts], [0] * len(texts)
    step = 0
    while any(part < len(text) for part, text in zip(done, texts, strict=True)):
        pieces = {}
        for row, text in enumerate(texts):
            size = max(1, len(text) // 2) if done[row] == 0 else 1
            if done[row] < len(text) and (step >= 4 or row not in late):
                pieces[row] = Piece(caches[row], done[row], text[done[row] : done[row] + size], size)
        out = model.forward(list(pieces.values()), none)
        for (row, piece), part in zip(pieces.items(), out.split([p.draws for p in pieces.values()]), strict=True):
            found[row].append(part)
            done[row] += piece.draws
        step += 1
    return [torch.cat(parts) for parts in found]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_those_of_the_plain_forward(family, dtype, loaded):
    model = loaded(family, dtype)
    if model.lean.dtype != torch.float32:
        assert not suits(model.lean)
        pytest.skip("products are of bfloat16 here, and so is what lies between them")
    plain = logits(model, prompts(6), late=(2, 3))
    model.lean = Native(model.lean)
    for mine, theirs in zip(logits(model, prompts(6), late=(2, 3)), plain, strict=True):
        assert (mine - theirs).norm() < (1e-5 if dtype == "float32" else 2e-2) * theirs.norm()


@pytest.mark.parametrize("family", ["qwen3", "mistral"])
def test_a_row_has_the_same_bits_alone_and_in_any_company(family, loaded):
    model = loaded(family)
    model.lean = Native(model.lean)
    texts = prompts(8)
    alone = [logits(model, [text])[0] for text in texts]
    for order, late in ([0, 1, 2, 3, 4, 5, 6, 7], ()), ([7, 3, 1, 5, 0, 2, 6, 4], (1, 4)), ([4, 0], (0,)):
        for row, found in zip(order, logits(model, [texts[row] for row in order], late), strict=True):
            assert torch.equal(found, alone[row])


def test_what_it_has_not_stays_with_the_plain_forward(loaded):
    lean = loaded("llama").lean
    assert suits(lean)
    lean.layers[1].activation = torch.nn.GELU()
    assert not suits(lean)
    lean = loaded("llama").lean
    lean.layers[2].dim = 20
    assert not suits(lean)
