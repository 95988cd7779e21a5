"""The parts of `make bench-gpu`, on the CPU and a tiny model: what it would time on a GPU is right."""

import pytest
import torch

from adaptive import accelerator
from tests.interpreted import fused

from benchmarks import attention, gpu  # isort: skip  # after the kernels, which it would define for a compiler

CPU = torch.device("cpu")
TINY = gpu.Shape(
    "tiny", "llama",
    {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 128, "tie_word_embeddings": False,
    },
    0.5,
)  # fmt: skip


def test_without_a_gpu_it_says_so_and_writes_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu", "--out", str(tmp_path / "gpu.md")])
    with pytest.raises(SystemExit, match="needs a CUDA device"):
        gpu.main()
    assert not list(tmp_path.iterdir())


def test_the_models_have_the_sizes_of_their_names():
    with torch.device("meta"):
        counts = [
            gpu.AutoModelForCausalLM.from_config(
                gpu.AutoConfig.for_model(shape.family, **shape.config)
            ).num_parameters()
            for shape in gpu.SHAPES
        ]
    assert counts == [pytest.approx(0.596e9, rel=0.01), pytest.approx(8.03e9, rel=0.01)]


def test_a_stream_decodes_with_everything_on_and_reads_one_step_later():
    with torch.inference_mode():
        model = gpu.make(TINY, CPU, torch.float32)
        stream = gpu.Stream(model, 2, 3)
        assert stream.step() == []
        first = stream.last.tolist()
        records = stream.step()
        taken, length = gpu.decode(model, 2, 1, 4)
    assert [info.token_id for info in records] == first
    assert all(info.scaled_entropy == pytest.approx(2.0, abs=1e-3) or info.saturated for info in records)
    assert taken > 0 and length == gpu.PROMPT + 3


def test_the_bound_counts_weights_once_and_the_memory_of_each_row():
    with torch.inference_mode():
        model = gpu.make(TINY, CPU, torch.float32)
    table, everything = 96 * 32 * 4, sum(p.numel() for p in model.network.parameters()) * 4
    a_token = 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, their size, bytes
    assert gpu.bytes_read(model, 3, 10) == everything - table + 3 * 10 * a_token


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of infinities in the interpreter
def test_the_sampler_is_checked_against_plain_torch(monkeypatch):
    logits = torch.randn(3, 600, generator=torch.Generator().manual_seed(1)) * 3
    with monkeypatch.context() as patch:
        patch.setattr(accelerator, "kernels", lambda device: fused)
        gpu.check_sampler(logits, CPU)
    plain = gpu.adaptive.step
    calls = iter([logits, logits * 1.1])
    monkeypatch.setattr(gpu.adaptive, "step", lambda given, rows: plain(next(calls), rows))
    with pytest.raises(SystemExit, match="differs"):
        gpu.check_sampler(logits, CPU)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of infinities in the interpreter
def test_lines_have_as_many_cells_as_their_heads(monkeypatch):
    monkeypatch.setattr(attention, "seconds", lambda run, device, calls: 1e-3)  # interpreted, a call takes seconds
    with torch.inference_mode():
        model = gpu.make(TINY, CPU, torch.float32)
        lines = gpu.model_lines(model, TINY, (1, 2), 2, 1e9)
        sampler = gpu.sampler_line(CPU, 2, 300, 4.0, gpu.bandwidth(CPU, 1 << 16), 1)
        beside = attention.line(CPU, torch.float32, 2, 40, 1e9, 1)
    assert {line.count("|") for line in [*lines, *gpu.MODELS_HEAD]} == {8}
    # FlexAttention is asked on a GPU alone.
    assert beside.count("|") + 1 == attention.HEAD[0].count("|")
    assert {line.count("|") for line in [sampler, *gpu.SAMPLER_HEAD]} == {9}
    assert "| 50% |" in lines[0]
