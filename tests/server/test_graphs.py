"""Decode steps as graphs, uncaptured and in Triton's interpreter: a graph does again what was done at its capture."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from server.engine.kv_cache import RowCache
from server.engine.model import Model, Piece
from tests.compiled import Launches
from tests.interpreted import decode, graphs
from tests.interpreted import fused_step as fused
from tests.models import FAMILIES

from server.engine import kernels  # isort: skip  # the interpreted ones

NOTHING = torch.zeros(0, dtype=torch.int64)
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of infinities in the interpreter


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    monkeypatch.setattr(decode, "_PROGRAMS", 8)
    monkeypatch.setattr(decode, "_WORTH", 4)


def model_of(family: str) -> Model:
    torch.manual_seed(0)
    small = {"vocab_size": 64, "num_hidden_layers": 2, "layer_types": None}
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **FAMILIES[family] | small))
    model = Model(family, network.eval().requires_grad_(False), 64)
    model.adopt()
    return model


def prefilled(model: Model, *lengths: int) -> list[RowCache]:
    caches = [RowCache(length + 8) for length in lengths]
    for seed, (cache, length) in enumerate(zip(caches, lengths, strict=True)):
        model.forward([Piece(cache, 0, [(seed + i) % 64 for i in range(length)], 0)], NOTHING)
    return caches


def step(model: Model, rows: list[tuple[RowCache, int]], tokens: list[int], *more: Piece) -> torch.Tensor:
    return model.forward([*(Piece(cache, start, None) for cache, start in rows), *more], torch.tensor(tokens))


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_steps_give_the_plain_ways_logits_while_rows_join_and_leave(family):
    model = model_of(family)
    with torch.inference_mode():
        model.graphs = graphs.Graphs(model, lambda run: run, (1, 4))
    assert_steps(model, model_of(family))


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_fused_steps_give_the_same(family):
    model = model_of(family)
    with torch.inference_mode():
        model.graphs = graphs.Graphs(model, lambda run: run, (1, 4), fused.Fused(model.network, 64))
    assert_steps(model, model_of(family))


def assert_steps(model: Model, plain: Model) -> None:
    with torch.inference_mode():
        ours, theirs = prefilled(model, 3, 9, 5), prefilled(plain, 3, 9, 5)
        # Two go on for two steps, one joins beside a prompt, the first leaves.
        for rows in ([(0, 3), (1, 9)], [(0, 4), (1, 10)], [(0, 5), (1, 11), (2, 5)], [(1, 12), (2, 6)], [(2, 7)]):
            tokens = [7 * row + start for row, start in rows]
            more = [Piece(RowCache(4), 0, (1, 2, 3)) for _ in range(2)] if len(rows) == 3 else [None, None]
            got, expected = (
                step(m, [(caches[row], start) for row, start in rows], tokens, *([piece] if piece else []))
                for m, caches, piece in ((model, ours, more[0]), (plain, theirs, more[1]))
            )
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_fused_are_llama_shaped_decoders_in_half_precision():
    for family, there in (("llama", True), ("gpt2", False)):
        model = model_of(family)
        assert not fused.fusible(model.network)
        assert fused.fusible(model.network.half()) is there


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("width", [24, 1300, 4100])
def test_products_are_those_of_the_layers(rows, width):
    """Each width is divided in another way."""
    torch.manual_seed(0)
    layer, norm = torch.nn.Linear(width, 21), fused.Norm(torch.rand(width), 1e-5)
    x, to = torch.randn(rows, width), torch.randn(rows, 21)
    even = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * norm.weight
    expected = to + layer(x)
    fused.add_product(to, x, layer)
    torch.testing.assert_close(to, expected)
    torch.testing.assert_close(fused.multiply(x, layer, norm), layer(even), atol=1e-4, rtol=1e-4)


def test_a_step_that_is_done_again_gives_the_same(monkeypatch):
    model = model_of("llama")
    with torch.inference_mode():
        model.graphs = graphs.Graphs(model, lambda run: run, (2,))
        (cache,) = prefilled(model, 4)
        first = step(model, [(cache, 4)], [5]).clone()
        assert torch.equal(step(model, [(cache, 4)], [5]), first)


def test_more_rows_than_the_largest_graph_go_the_plain_way():
    model = model_of("llama")
    with torch.inference_mode():
        model.graphs = graphs.Graphs(model, lambda run: run, (1,))
        caches = prefilled(model, 4, 6)
        got = step(model, [(caches[0], 4), (caches[1], 6)], [5, 6])
    assert got.shape == (2, 64)


def test_without_fused_kernels_the_models_own_forward_is_captured(monkeypatch, caplog):
    model = model_of("llama")
    monkeypatch.setattr(graphs, "Recorder", lambda: lambda run: run)
    monkeypatch.setattr(graphs, "fusible", lambda network: True)
    with torch.inference_mode():
        assert graphs.build(model)._way is not None
        monkeypatch.setattr(fused.Fused, "forward", lambda self, tokens, table: torch.ones(len(tokens), 64))
        assert graphs.build(model)._way is None
    assert "decode steps go without fused kernels: ArithmeticError" in caplog.text


def test_graphs_that_differ_or_cannot_be_made_are_left_out_and_told(monkeypatch, caplog):
    model = model_of("llama")
    monkeypatch.setattr(graphs, "Recorder", lambda: lambda run: run)
    with torch.inference_mode():
        assert isinstance(graphs.build(model), graphs.Graphs)
        monkeypatch.setattr(graphs, "Recorder", lambda: lambda run: lambda: run() + 1.0)
        assert graphs.build(model) is None
        monkeypatch.setattr(graphs, "Recorder", lambda: None)
        assert graphs.build(model) is None
    assert "differ from the plain way's" in caplog.text and caplog.text.count("without CUDA graphs") == 2


def test_what_kernels_are_launched_with_compiles(monkeypatch, tmp_path):
    launches = Launches(monkeypatch, kernels, "product", "normed", "gated", "attend")
    model = model_of("qwen3").network.half()
    model = Model("half", model, 64)
    with torch.inference_mode():
        fused_graphs = graphs.Graphs(model, lambda run: run, (1, 4), fused.Fused(model.network, 64))
        fused_graphs._run(1), fused_graphs._run(4)
    launches.assert_compile(tmp_path)
