"""Linear layers give a row the same bits in any company."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.pytorch_utils import Conv1D

from server.engine import linear
from server.engine.linear import FixedLinear, make_invariant
from server.engine.packed import ConvolvedLinear, HalfLinear, PackedLinear

SHAPES = [(64, 48), (320, 768), (768, 320), (2048, 768)]
VECTORS = torch.backends.cpu.get_cpu_capability()
KINDS = {"AVX2": [PackedLinear, ConvolvedLinear, HalfLinear], "AVX512": [PackedLinear, HalfLinear]}.get(
    VECTORS, [PackedLinear]
)
with_convolutions = pytest.mark.skipif(ConvolvedLinear not in KINDS, reason="with AVX2 alone are layers convolutions")
with_halves = pytest.mark.skipif(HalfLinear not in KINDS, reason="FBGEMM has its products for AVX2 and AVX-512")
COUNTS = [1, 2, 3, 7, 13, 14, 15, 16, 17, 31, 33, 64, 100, 257, 600]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_the_same_bits_among_any_number_of_rows(shape, dtype, bias, kind, monkeypatch):
    choose(kind, monkeypatch)
    plain = of_16_bits(nn.Linear(*shape, bias=bias, dtype=dtype))
    holder = nn.ModuleDict({"layer": plain})
    x = torch.randn(600, shape[0], dtype=dtype)
    with torch.inference_mode():
        expected = plain(x)
        make_invariant(holder)
        layer = holder["layer"]
        assert type(layer) is kind
        alone = torch.cat([layer(row[None]) for row in x[:40]])
        for count in COUNTS:
            assert torch.equal(layer(x[:count])[:40], alone[: min(count, 40)])
        assert torch.equal(layer(x[7:40][None])[0], alone[7:40])  # another place, another shape
        assert layer(x[:0]).shape == (0, shape[1])
        assert torch.allclose(layer(x).float(), expected.float(), atol=1e-4 if dtype == torch.float32 else 0.05)


def choose(kind, monkeypatch):
    """Let layers be of this kind."""
    monkeypatch.setattr(linear, "_kinds", lambda weight: [] if kind is FixedLinear else [kind])
    if kind is HalfLinear:  # where a processor multiplies in bfloat16, weights of that type are never held so
        monkeypatch.setattr(linear, "_multiplies_bfloat16", lambda: False)


def of_16_bits(layer):
    """The layer, its weights rounded to what bfloat16 and float16 both hold."""
    torch.manual_seed(0)
    layer.weight = nn.Parameter(torch.randn(layer.weight.shape).mul_(0.02).bfloat16().half().to(layer.weight.dtype))
    return layer


@pytest.mark.parametrize(("instructions", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_on_x86_products_are_of_bfloat16_where_there_are_instructions_for_them(instructions, expected, monkeypatch):
    """Whatever oneDNN says that it can do: with AVX-512 alone it says yes."""
    monkeypatch.setattr(torch.cpu, "_is_avx2_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    weight = torch.ones(8, 8)
    assert linear.product_dtype(torch.bfloat16) == expected
    assert linear.product_dtype(torch.float16) == torch.float32
    assert (HalfLinear in linear._kinds(weight.bfloat16())) is not instructions
    assert HalfLinear in linear._kinds(weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not ConvolvedLinear])
def test_products_are_of_float32_where_the_processor_has_none_of_16_bits(dtype, kind, monkeypatch):
    monkeypatch.setattr(linear, "product_dtype", lambda dtype: torch.float32)
    monkeypatch.setattr(linear, "_kinds", lambda weight: [kind])
    torch.manual_seed(0)
    plain = nn.Linear(320, 96, dtype=dtype)
    holder = nn.ModuleDict({"layer": plain})
    x, onto = torch.randn(40, 320, dtype=dtype), torch.randn(40, 96, dtype=dtype)
    with torch.inference_mode():
        wide = F.linear(x.float(), plain.weight.float(), plain.bias.float())
        way = "packed in float16, computed in float32" if kind is HalfLinear else "packed in float32"
        assert make_invariant(holder) == way
        layer = holder["layer"]
        assert layer(x).dtype == dtype
        assert torch.allclose(layer(x).float(), wide.to(dtype).float(), rtol=0.01, atol=1e-3)
        assert torch.allclose(layer(x, onto).float(), (wide + onto).to(dtype).float(), rtol=0.01, atol=1e-3)
        alone = torch.cat([layer(row[None], other[None]) for row, other in zip(x, onto, strict=True)])
        assert torch.equal(layer(x, onto), alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fallback_is_invariant_too_and_takes_wider_rows_than_its_weights(dtype):
    torch.manual_seed(0)
    weight, bias, x = torch.randn(96, 64, dtype=dtype), torch.randn(96, dtype=dtype), torch.randn(70, 64)
    layer = FixedLinear(weight, bias)
    alone = torch.cat([layer(row[None]) for row in x])
    for count in (1, 5, 16, 17, 70):
        assert torch.equal(layer(x[:count]), alone[:count])
    tolerance = {"atol": 1e-4} if dtype == torch.float32 else {"atol": 0.1, "rtol": 0.02}
    assert torch.allclose(alone, F.linear(x, weight.float(), bias.float()), **tolerance)


def test_gpt2s_transposed_layers_are_replaced_as_well():
    torch.manual_seed(0)
    holder = nn.ModuleDict({"layer": Conv1D(48, 64)})
    x = torch.randn(5, 64)
    with torch.inference_mode():
        expected = holder["layer"](x)
        make_invariant(holder)
        assert torch.allclose(holder["layer"](x), expected, atol=1e-5)
    assert not isinstance(holder["layer"], Conv1D)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [*KINDS, FixedLinear])
def test_what_a_product_is_added_to_changes_no_row_by_its_company(dtype, kind, monkeypatch):
    choose(kind, monkeypatch)
    plain = of_16_bits(nn.Linear(768, 320, dtype=dtype))
    holder = nn.ModuleDict({"layer": plain})
    x, onto = torch.randn(100, 768, dtype=dtype), torch.randn(100, 320, dtype=dtype)
    with torch.inference_mode():
        expected = plain(x).float() + onto
        make_invariant(holder)
        layer = holder["layer"]
        assert type(layer) is kind
        alone = torch.cat([layer(row[None], other[None]) for row, other in zip(x, onto, strict=True)])
        for count in (2, 7, 16, 33, 100):
            assert torch.equal(layer(x[:count], onto[:count]), alone[:count])
        assert torch.allclose(alone.float(), expected, atol=1e-4 if dtype == torch.float32 else 0.05)


@with_convolutions
def test_large_layers_are_convolutions_with_avx2_and_alike_ones_are_probed_once(monkeypatch):
    probed = []
    probe = PackedLinear.probe
    monkeypatch.setattr(PackedLinear, "probe", lambda layer, weight: probed.append(layer) or probe(layer, weight))
    holder = nn.Sequential(*(nn.Linear(1024, 768, bias=False) for _ in range(2)), nn.Linear(768, 16))
    x = torch.randn(20, 1024)
    with torch.inference_mode():
        expected = [layer(x) for layer in holder[:2]]
        make_invariant(holder)
        assert [isinstance(layer, ConvolvedLinear) for layer in holder] == [True, True, False]
        assert probed == [holder[0], holder[2]]
        assert all(torch.allclose(layer(x), y, atol=1e-4) for layer, y in zip(holder, expected, strict=False))


@with_convolutions
def test_a_layer_that_cannot_be_a_convolution_is_a_product(monkeypatch):
    monkeypatch.setattr(ConvolvedLinear, "_tried", lambda layer, most, weight: torch.ops.mkldnn.no_such_operator)
    holder = nn.Sequential(nn.Linear(1024, 768))
    make_invariant(holder)
    assert type(holder[0]) is PackedLinear


@with_convolutions
def test_rows_whose_number_wants_weights_in_another_order_are_several_images(monkeypatch):
    pack = ConvolvedLinear._pack
    other = {rows for rows in range(4, 513, 4) if rows not in (4, 8, 16)}
    monkeypatch.setattr(
        ConvolvedLinear, "_pack", lambda layer, w, rows: pack(layer, w[:32] if rows in other else w, rows)
    )
    weight, x, onto = torch.randn(96, 64), torch.randn(64, 64), torch.randn(64, 96)
    with torch.inference_mode():
        layer = ConvolvedLinear(weight, None)
        layer.probe(weight)
        assert [layer.parts.get(count) for count in (4, 8, 16, 24, 28, 64)] == [1, 1, 1, 3, 7, 4]
        assert torch.allclose(layer(x[:26], onto[:26]), F.linear(x[:26], weight) + onto[:26], atol=1e-4)
        assert torch.equal(layer(x[:3]), layer(x)[:3])


@with_halves
def test_weights_that_16_bits_hold_are_held_in_16_and_others_are_not():
    torch.manual_seed(0)
    trained = torch.randn(256, 512).mul_(0.02).bfloat16().float()
    layers = {
        "held": trained,
        "of more bits": torch.randn(256, 512).mul_(0.02),
        "too large": trained * 2.0**24,
        "too small": trained * 2.0**-16,
        "broken": trained.clone().index_fill_(0, torch.tensor([3]), torch.nan),
    }
    holder = nn.ModuleDict({name: nn.Linear(512, 256, bias=False) for name in layers})
    for name, weight in layers.items():
        holder[name].weight = nn.Parameter(weight)
    x = torch.randn(20, 512)
    with torch.inference_mode():
        expected = x.double() @ trained.double().T
        make_invariant(holder)
        assert [name for name in layers if type(holder[name]) is HalfLinear] == ["held"]
        assert (holder["held"](x) - expected).norm() < 1e-6 * expected.norm()


@with_halves
def test_numbers_of_rows_that_would_be_summed_in_another_order_are_divided(monkeypatch):
    multiply = HalfLinear._multiply  # with AVX2 32 rows are such a number, with AVX-512 none is
    monkeypatch.setattr(HalfLinear, "_multiply", lambda layer, x: multiply(layer, x) * (1 + (len(x) == 32) * 1e-6))
    torch.manual_seed(0)
    weight, x, onto = torch.randn(96, 64).bfloat16().float(), torch.randn(64, 64), torch.randn(64, 96)
    with torch.inference_mode():
        layer = HalfLinear(weight, None)
        layer.probe(weight)
        several = [count for count, parts in layer.parts.items() if parts > 1]
        assert layer.limit == 512
        assert 32 in several
        assert not torch.equal(layer._multiply(x[:32]), layer(x[:32]))
        assert torch.equal(layer(x[:32], onto[:32]), layer(x, onto)[:32])


@with_halves
def test_without_fbgemm_weights_are_packed_in_float32(monkeypatch):
    monkeypatch.setattr(HalfLinear, "_pack", lambda layer, weight, rows: torch.ops.quantized.no_such_operator)
    holder = nn.Sequential(of_16_bits(nn.Linear(64, 48)), of_16_bits(nn.Linear(1024, 768)), nn.Linear(64, 48))
    assert make_invariant(holder) == "packed in float32"
    large = ConvolvedLinear if ConvolvedLinear in KINDS else PackedLinear
    assert [type(layer) for layer in holder] == [PackedLinear, large, PackedLinear]
