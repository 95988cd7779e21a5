"""A decode step's attention on a GPU, in Triton's interpreter, against torch's own."""

from pathlib import Path

import pytest
import torch

from server.engine.attention import Packed, Segment, attend
from server.engine.kv_cache import RowCache
from tests.compiled import assert_compile
from tests.interpreted import decode

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of infinities in the interpreter
LENGTHS = [1, 7, 64, 130]
LAYER = 1


class Layer(torch.nn.Module):
    layer_idx = LAYER


def caches(kv_heads: int, dim: int, value_dim: int, dtype: torch.dtype) -> list[RowCache]:
    """Memory of rows that have all but their last token."""
    made = []
    for row, length in enumerate(LENGTHS):
        cache = RowCache(length + row)
        for layer in range(LAYER + 1):
            keys = torch.randn(1, kv_heads, length - 1, dim, dtype=dtype)
            cache.write(layer, 0, keys, torch.randn(1, kv_heads, length - 1, value_dim, dtype=dtype))
        made.append(cache)
    return made


def both(heads: int, kv_heads: int, dim: int, value_dim: int, dtype: torch.dtype = torch.float32, **options: object):
    """(what the kernels give, what torch gives) for one token of each row."""
    torch.manual_seed(0)
    rows = len(LENGTHS)
    memory = caches(kv_heads, dim, value_dim, dtype)
    query = torch.randn(1, rows, heads, dim, dtype=dtype).transpose(1, 2)
    key = torch.randn(1, rows, kv_heads, dim, dtype=dtype).transpose(1, 2)
    value = torch.randn(1, rows, kv_heads, value_dim, dtype=dtype).transpose(1, 2)
    starts = [length - 1 for length in LENGTHS]
    table = decode.Table.empty(LAYER + 1, rows, torch.device("cpu"))
    table.fill(memory, starts, rows)
    got, _ = attend(Layer(), query, key, value, packed=Packed([], table=table), **options)
    stored = memory[3].write(LAYER, 129, key[:, :, 3:], value[:, :, 3:])
    assert torch.equal(stored[0][:, :, 129], key[:, :, 3]) and torch.equal(stored[1][:, :, 129], value[:, :, 3])
    segments = [Segment(cache, row, start, 1) for row, (cache, start) in enumerate(zip(memory, starts, strict=True))]
    expected, _ = attend(Layer(), query, key, value, packed=Packed(segments), **options)
    return got, expected


@pytest.mark.parametrize("splits", [1, 16], ids="{}_programs_a_head".format)
@pytest.mark.parametrize(
    "options", [{}, {"scaling": 0.3}, {"sliding_window": 50}, {"softcap": 2.0}], ids=lambda x: next(iter(x), "plain")
)
def test_ragged_rows_attend_as_each_alone(monkeypatch, options, splits):
    monkeypatch.setattr(decode, "_PROGRAMS", splits * 8)
    monkeypatch.setattr(decode, "_WORTH", 32)
    got, expected = both(6, 2, 20, 24, **options)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_float16_rows_and_heads_that_share_nothing():
    """Of bfloat16 the interpreter multiplies the bits."""
    got, expected = both(3, 3, 16, 16, torch.float16)
    torch.testing.assert_close(got, expected, atol=2e-3, rtol=2e-3)


def test_a_table_goes_on_by_itself():
    table = decode.Table.empty(1, 4, torch.device("cpu"))
    cache = RowCache(8)
    cache.write(0, 0, torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3, 4))
    table.first(2).fill([cache, cache], [3, 3], 1)
    table.advance()
    assert table.places.tolist() == [[5, 4, 0, 0], [4, 3, 0, 0]] and table.capacities[0] == 8
    assert table.addresses[:, 0, 0].tolist() == list(cache.addresses[0])


def test_the_kernels_compile_for_an_h100(tmp_path: Path):
    assert_compile(
        """
from server.engine import kernels

halves = ["queries", "keys", "values", "cosines", "sines", "query_norm", "key_norm", "x", "norm", "weight", "bias"]
kinds = dict.fromkeys([*halves, "both", "out"], "*bf16") | dict.fromkeys(["partial", "sums"], "*fp32")
kinds |= dict.fromkeys(["key_at", "value_at"], "*i64") | dict.fromkeys(["capacities", "lengths", "counts"], "*i32")
kinds |= dict.fromkeys(["scale", "cap", "epsilon"], "fp32")
sizes = dict(DIM=128, VALUE_DIM=128, DIM_2=128, VALUE_DIM_2=128, KEYS=32, LEAST=256, GROUP=4, GROUP_2=16, PARTS=8)
for turned in (False, True):
    for normed in (False, turned):
        how = dict(CAPPED=not turned, NORMED=normed, TURNED=turned, CHAINED=turned)
        compile(kernels.attend, sizes | how, kinds, "i32")
compile(kernels.attend, sizes | how | {"PARTS": 1}, kinds, "i32")
tiles = dict(CHAINED=True, HEIGHT=4, WIDTH=1024, STAGES=3)
for normed, gated, biased in ((True, False, True), (True, True, False), (False, False, False)):
    how = dict(NORMED=normed, GATED=gated, ADDED=not normed, BIASED=biased)
    compile(kernels.product, tiles | how, kinds, "i32")
compile(kernels.normed, {"WIDTH": 1024}, kinds, "i32")
compile(kernels.gated, {"WIDTH": 1024}, kinds, "i32")
""",
        tmp_path,
    )
