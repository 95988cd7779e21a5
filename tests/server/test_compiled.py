"""The compiled forward gives what the plain one gives, and a row's bits in any company. It needs a C++ compiler."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import linear, rms_norm

from server.engine import loading, native
from server.engine.attention import Packed, Segment
from server.engine.compiled import CompiledLean, CompiledLinear, described, suits
from server.engine.events import Drawn
from server.engine.kv_cache import Layout, RowCache
from server.engine.loading import ModelSource, load
from server.engine.model import Piece
from server.engine.request import GenerationRequest, Resume, Stopping
from tests import models
from tests.compiler import needs_compiler
from tests.fakes import Harness

pytestmark = needs_compiler
EPSILON = 1e-6


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


WEIGHTS = {
    torch.float16: random(200, 1100).mul(0.02).half().float(),
    torch.bfloat16: random(200, 1100)
    .mul(1e30)
    .bfloat16()
    .float(),  # larger than float16 can be, and their norm than float32
    torch.float32: random(200, 1100),
}


@pytest.mark.parametrize("held", native.KINDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1100, 200), (320, 96), (48, 7)])
def test_a_linear_layer_is_torchs_and_a_row_has_the_same_bits_among_any_number(held, bias, shape):
    layer = nn.Linear(*shape, bias=bias)
    weight = WEIGHTS[held][: shape[1], : shape[0]].clone()
    layer.weight = nn.Parameter(weight, requires_grad=False)
    x = random(70, shape[0], seed=1)
    offset = layer.bias.detach().double() if bias else None
    expected = linear(x.double(), weight.double(), offset)
    with torch.inference_mode():
        compiled = CompiledLinear(layer)
        assert native.KINDS[compiled.native.kind] == held
        alone = torch.cat([compiled(row[None]) for row in x])
        assert ((alone - expected).norm() < 1e-6 * expected.norm()).all()
        for count in (0, 2, 3, 4, 5, 6, 7, 12, 23, 70):
            assert torch.equal(compiled(x[:count]), alone[:count])


def test_norm_is_torchs():
    x, weight = random(70, 768), random(768, seed=2)
    out = torch.empty_like(x)
    native.library().norm(native.Norm(weight.data_ptr(), 768, EPSILON), x.data_ptr(), out.data_ptr(), 70, 2)
    expected = rms_norm(x.double(), (768,), weight.double(), EPSILON)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", native.KINDS)
@pytest.mark.parametrize("group", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("window", [0, 9])
@pytest.mark.parametrize("normed", [True, False])
def test_attention_is_that_of_float64_over_what_is_stored(dtype, group, window, normed):
    kv_heads, dim, number = 2, 32, 1
    pieces = [(0, 1), (1, 1), (8, 1), (30, 1), (700, 1), (0, 2), (240, 60)]  # positions and tokens, of prompts the last
    heads, hidden = group * kv_heads, 64
    rows = sum(length for _, length in pieces)
    x, angles, weight = random(rows, hidden), random(rows, dim, seed=1), random((group + 2) * kv_heads * dim, hidden)
    cosines, sines, before = angles.cos(), angles.sin(), torch.ones(hidden)
    norms = [random(dim, seed=2), random(dim, seed=3)] if normed else []
    segments: list[Segment] = []
    for start, length in pieces:
        cache = RowCache(start + length + 2, Layout(2, kv_heads, dim, dtype))
        old = random(2, 1, kv_heads, start, dim, seed=start).to(dtype)
        cache.write(number, 0, old[0], old[1])
        segments.append(Segment(cache, segments[-1].rows.stop if segments else 0, start, length))

    layer = nn.Linear(hidden, len(weight), bias=False)
    layer.weight = nn.Parameter(weight.half().float(), requires_grad=False)
    wide = linear(rms_norm(x.double(), (hidden,), None, EPSILON), layer.weight.double()).view(rows, -1, dim)
    turned = wide[:, :-kv_heads].clone()
    if normed:
        turned[:, :heads] = rms_norm(turned[:, :heads], (dim,), norms[0].double(), EPSILON)
        turned[:, heads:] = rms_norm(turned[:, heads:], (dim,), norms[1].double(), EPSILON)
    swapped = torch.cat([-turned[..., dim // 2 :], turned[..., : dim // 2]], -1)
    turned = turned * cosines.double()[:, None] + swapped * sines.double()[:, None]

    product = CompiledLinear(layer)
    query, key = (native.Norm(norm.data_ptr(), dim, EPSILON) for norm in norms) if normed else [native.Norm(0, dim)] * 2
    sizes = number, kv_heads, group, dim, window, native.KINDS.index(dtype)
    given = native.Layer(native.Norm(before.data_ptr(), hidden, EPSILON))
    given.qkv, given.attention = product.native, native.Attention(query, key, *sizes, 0.1)
    normalized, qkv, mixed = torch.empty_like(x), torch.empty(rows, len(weight)), torch.empty(rows, heads, dim)

    def attend(segments):
        table = described(Packed(segments))
        room = (part.data_ptr() for part in (x, normalized, x, qkv, mixed, x, x, cosines, sines, table))
        native.library().attend(given, native.Step(*room, len(table), rows, 2))

    attend(segments)
    wholes = qkv.view(rows, -1, dim)
    torch.testing.assert_close(wholes[:, :-kv_heads].double(), turned, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(wholes[:, -kv_heads:].double(), wide[:, -kv_heads:], rtol=1e-4, atol=1e-4)
    for segment in segments:
        stop, own = segment.start + segment.length, wholes[segment.rows]
        keys, values = (part[0] for part in segment.cache.get(0, stop)[number])
        assert torch.equal(keys[:, segment.start :], own[:, heads:-kv_heads].transpose(0, 1).to(dtype))
        assert torch.equal(values[:, segment.start :], own[:, -kv_heads:].transpose(0, 1).to(dtype))
        keys, values = (part.double().repeat_interleave(group, 0) for part in (keys, values))
        queries, seen = torch.arange(segment.start, stop)[:, None], torch.arange(stop)
        hidden_from = (seen > queries) | ((seen <= queries - window) if window else False)
        scores = (own[:, :heads].transpose(0, 1).double() @ keys.mT) * 0.1
        expected = scores.masked_fill(hidden_from, -torch.inf).softmax(-1) @ values
        torch.testing.assert_close(mixed[segment.rows].double(), expected.transpose(0, 1), rtol=3e-4, atol=3e-4)

    # A prompt in other pieces has the same bits.
    found, last = mixed.clone(), segments[-1]
    parts = [(0, 2), (2, 19), (21, 39)]
    cut = [Segment(last.cache, last.offset + begin, last.start + begin, length) for begin, length in parts]
    attend([*segments[:-1], *cut])
    assert torch.equal(mixed, found)

    # Token by token, and the last first: all are stored before any is read.
    unknown = torch.full((1, kv_heads, last.length, dim), torch.nan, dtype=dtype)
    last.cache.write(number, last.start, unknown, unknown)
    attend([Segment(last.cache, last.offset + i, last.start + i, 1) for i in reversed(range(last.length))])
    torch.testing.assert_close(mixed[last.rows], found[last.rows], rtol=3e-4, atol=3e-4)


LAYERS = models.FAMILIES["llama"] | {"head_dim": 32}
FAMILIES = {
    "llama": LAYERS | {"num_key_value_heads": 1},
    "qwen2": LAYERS | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "qwen3": LAYERS,
    "mistral": LAYERS | {"sliding_window": 8},
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Models with their lean forward, compiled or not. The sampler stays as it is."""
    folder = tmp_path_factory.mktemp("models")

    def load_one(family, dtype="float32", compiled=True):
        where = folder / family
        if not where.exists():
            models.make(folder, family, FAMILIES[family])
        return load(ModelSource(str(where), dtype=dtype, compile=compiled))[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "compile_sampler", lambda: None)
        yield load_one


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
    model, plain = loaded(family, dtype), loaded(family, dtype, compiled=False)
    if plain.lean.dtype != torch.float32:
        assert not isinstance(model.lean, CompiledLean)
        pytest.skip("products are of bfloat16 here, and so is what lies between them")
    assert isinstance(model.lean, CompiledLean)
    both = [logits(one, prompts(6), late=(2, 3)) for one in (model, plain)]
    for mine, theirs in zip(*both, strict=True):
        assert (mine - theirs).norm() < (1e-5 if dtype == "float32" else 2e-2) * theirs.norm()


@pytest.mark.parametrize(("family", "dtype"), [("qwen3", "float32"), ("mistral", "float32"), ("qwen3", "bfloat16")])
def test_a_row_has_the_same_bits_alone_and_in_any_company(family, dtype, loaded):
    model = loaded(family, dtype)
    texts = prompts(8)
    alone = [logits(model, [text])[0] for text in texts]
    for order, late in ([0, 1, 2, 3, 4, 5, 6, 7], ()), ([7, 3, 1, 5, 0, 2, 6, 4], (1, 4)), ([4, 0], (0,)):
        for row, found in zip(order, logits(model, [texts[row] for row in order], late), strict=True):
            assert torch.equal(found, alone[row])


@pytest.mark.parametrize("family", ["qwen3", "mistral"])
def test_a_prompt_has_the_same_bits_whatever_room_others_leave_it(family, loaded):
    model = loaded(family)
    chance = torch.Generator().manual_seed(2)
    prompts = [torch.randint(1, models.VOCAB, (length,), generator=chance).tolist() for length in (193, 65, 64, 120, 2)]
    prompts.append([*prompts[0][:128], 5, 6])  # with a beginning that is known already
    stopping = Stopping(max_output_tokens=4, ignore_eos=True)

    def infos(*chosen):
        with Harness(model, rows=8, kv=2000, chunk=192, token_bytes=lambda _: b"x") as harness:
            harness.run(*(GenerationRequest(str(i), tuple(prompts[i]), seed=i, stopping=stopping) for i in chosen))
        draws = {i: [e.info for e in harness.events[str(i)] if isinstance(e, Drawn)] for i in chosen}
        return {i: [(info.token_id, info.original_entropy) for info in draws[i]] for i in chosen}

    together, others = infos(*range(6)), infos(4, 3, 5, 2, 1, 0)
    for i in range(6):
        assert len(together[i]) == 4
        assert together[i] == others[i] == infos(i)[i]


def test_a_resumed_generation_has_the_bits_of_the_uncut_one(loaded):
    model, whole = loaded("qwen3"), GenerationRequest("0", (5, 9, 2), seed=3, stopping=Stopping(60, ignore_eos=True))

    def infos(request):
        with Harness(model, chunk=64, kv=2000, token_bytes=lambda _: b"x") as harness:
            harness.run(request)
        return [(e.info.token_id, e.info.original_entropy) for e in harness.events["0"] if isinstance(e, Drawn)]

    uncut = infos(whole)
    for cut in 1, 2, 30, 59:
        assert infos(replace(whole, resume=Resume(tuple(token for token, _ in uncut[:cut])))) == uncut[cut:]


def test_the_number_of_threads_changes_no_bits(loaded):
    model = loaded("qwen3")
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(logits(model, prompts(8) * 2))
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_what_it_has_not_stays_with_the_plain_forward(loaded):
    plain = loaded("llama", compiled=False).lean
    assert suits(plain)
    plain.layers[1].activation = nn.GELU()
    assert not suits(plain)
    plain = loaded("llama", compiled=False).lean
    plain.layers[2].dim = 20
    assert not suits(plain)
