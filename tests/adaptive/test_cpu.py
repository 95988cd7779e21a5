"""The sampler of C++ gives what plain torch gives, and a row's bits in any company. It needs a C++ compiler."""

import math
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from adaptive import CannotCompile, Filters, Fixed, Mirostat, Rows, RowSettings, TargetEntropy, accelerator
from adaptive.cpu import fused, library
from adaptive.moments import rank_and_measure
from tests.adaptive.cases import edge_rows, every_kind_of_row, infos, random_logits
from tests.adaptive.ways import assert_same, fusedly, plainly
from tests.compiler import needs_compiler

SMALL, LARGE = 90, 33_001
"""Two blocks; and many, and a rest."""


@pytest.fixture
def compiled(monkeypatch):
    monkeypatch.setattr(accelerator, "_compiled", [fused])


@needs_compiler
@pytest.mark.parametrize("vocab", [SMALL, LARGE])
@pytest.mark.parametrize("spread", [0.1, 3.0, 30.0])
def test_moments_are_those_of_float64(vocab, spread):
    logits = random_logits(5, vocab, spread)
    logits[:, ::7] = -math.inf
    inverse = torch.tensor([0.1, 0.5, 1.0, 2.0, 50.0], dtype=torch.float64)
    found = fused.rank(logits, inverse).survey

    def exact(factor):
        y = (logits - logits.amax(-1, keepdim=True)).double() * factor
        p = y.softmax(-1)
        return [y.exp().sum(-1).log(), *(torch.nansum(p * y**order, -1) for order in (1, 2, 3))]

    for mine, other in zip(found.moments, exact(1.0), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=5e-7)
    log_sum, mean, *_ = exact(inverse[:, None])
    torch.testing.assert_close(found.ahead[0], log_sum, rtol=0, atol=2e-7)
    torch.testing.assert_close(found.ahead[1], log_sum - mean, rtol=0, atol=5e-7)


@needs_compiler
@pytest.mark.parametrize("temperature", [1e-13, 1e-3, 0.3, 1.0, 30.0, 1e6, 1e20])
def test_any_temperature_is_that_of_float64(temperature):
    logits = random_logits(3, LARGE, 4.0)
    logits[:, ::3] = -math.inf
    logits[0] *= 1e4
    inverse = min(1 / temperature, 1e12)
    y = (logits - logits.amax(-1, keepdim=True)).double() * inverse
    p = y.softmax(-1)
    found = fused.rank(logits, torch.full((3,), inverse, dtype=torch.float64)).survey.ahead
    log_sum = y.exp().sum(-1).log()
    torch.testing.assert_close(found[0], log_sum, rtol=0, atol=2e-7)
    torch.testing.assert_close(found[1], log_sum - torch.nansum(p * y, -1), rtol=0, atol=1e-6)


@needs_compiler
@pytest.mark.parametrize("spread", [0.02, 0.5, 1.0, 3.0, 6.0])
def test_a_target_is_met_to_a_millionth_of_a_nat(spread, compiled):
    for seed in range(6):
        logits = random_logits(8, LARGE, spread, seed)
        for target in (1.5, 2.5, 4.5, 8.0):
            rows = Rows([RowSettings(TargetEntropy(target, 1e-4, 20.0), seed=i) for i in range(8)])
            for row, info in zip(logits.double(), infos(logits, rows), strict=True):
                z = row / info.temperature
                assert -(z.softmax(-1) * z.log_softmax(-1)).sum().item() == pytest.approx(target, abs=1e-6)


LEADING = [
    Filters(),
    Filters(top_k=1),
    Filters(top_k=40),
    Filters(top_k=600),
    Filters(top_k=30_000),
    Filters(top_p=1e-6),
    Filters(top_p=0.5),
    Filters(top_p=0.95),
    Filters(top_p=0.999),
    Filters(min_p=0.01),
    Filters(top_k=5_000, top_p=0.9, min_p=1e-4),
    Filters(top_k=100_000, top_p=0.3),
]
LOGITS = {
    "flat": random_logits(1, LARGE, 0.3),
    "spread": random_logits(1, LARGE, 3.0),
    "peaked": random_logits(1, LARGE, 20.0),
    "far apart": random_logits(1, LARGE, 3e3),
    "equal": torch.zeros(1, LARGE),
    "few values": random_logits(1, LARGE, 2.0).round(),
    "mostly impossible": random_logits(1, LARGE, 2.0).masked_fill(torch.arange(LARGE) % 5 > 0, -math.inf),
    "one far above": torch.where(torch.arange(LARGE) == 77, 40.0, random_logits(1, LARGE, 0.5)),
    "close to each other": 1e3 + random_logits(1, LARGE, 1e-3),
}


@needs_compiler
@pytest.mark.parametrize("kind", LOGITS)
@pytest.mark.parametrize("policy", [Fixed(0.7), Fixed(1.0), Fixed(5.0), Mirostat(4.0)], ids=str)
def test_leading_filters_of_large_rows_leave_what_the_plain_way_does(kind, policy):
    settings = [RowSettings(policy, filters, seed=seed) for seed, filters in enumerate(LEADING)]
    logits = LOGITS[kind].expand(len(settings), -1).contiguous()
    assert_same(fusedly(fused, logits, settings), plainly(logits, settings))


@needs_compiler
@pytest.mark.parametrize(("vocab", "steps"), [(SMALL, 4), (LARGE, 2)])
def test_every_kind_of_row_equals_itself_alone_bit_for_bit_and_nearly_what_is_not_compiled(vocab, steps, monkeypatch):
    kinds = every_kind_of_row()
    plain, together, alone = Rows(kinds), Rows(kinds), [Rows([wish]) for wish in kinds]
    for step in range(steps):
        logits = random_logits(len(kinds), vocab, seed=step)
        expected = infos(logits, plain)
        with monkeypatch.context() as patch:
            patch.setattr(accelerator, "_compiled", [fused])
            batch = infos(logits, together)
            assert [repr(infos(logits[i : i + 1], rows)[0]) for i, rows in enumerate(alone)] == [repr(i) for i in batch]
        for got, other in zip(batch, expected, strict=True):
            assert got.token_id == other.token_id
            assert got.original_entropy == pytest.approx(other.original_entropy, abs=1e-6)
            assert got.final_entropy == pytest.approx(other.final_entropy, abs=2e-5)
            assert got.effective_vocab_size == other.effective_vocab_size
            assert got.kept_mass == pytest.approx(other.kept_mass, abs=1e-6, nan_ok=True)
            assert got.top_token_prob == pytest.approx(other.top_token_prob, rel=1e-5)
            assert got.varentropy == pytest.approx(other.varentropy, abs=1e-5)
            assert got.temperature == pytest.approx(other.temperature, rel=1e-4, nan_ok=True)


@needs_compiler
@pytest.mark.parametrize(
    "other", [RowSettings(filters=Filters(typical_p=0.5)), RowSettings(bias={1: 1.0})], ids=["filter", "bias"]
)
def test_a_record_has_the_same_bits_beside_rows_that_plain_torch_tells_of(other, compiled):
    """Its logarithm may be another in the last bit."""
    logits = torch.cat([random_logits(200, 4096, 6.0), random_logits(1, 4096)])
    settings = [RowSettings(Fixed(0.7), Filters(top_k=1 + seed % 27, top_p=0.9), seed=seed) for seed in range(200)]
    alone = infos(logits[:200], Rows(settings))
    beside = infos(logits, Rows([*settings, other]))
    assert [repr(info) for info in beside[:200]] == [repr(info) for info in alone]


@needs_compiler
@pytest.mark.parametrize("name", edge_rows(SMALL))
def test_rows_at_every_edge(name, monkeypatch):
    row = edge_rows(SMALL)[name][None].float()
    expected = torch.stack(rank_and_measure(row)[1][:3])
    monkeypatch.setattr(accelerator, "_compiled", [fused])
    got = torch.stack(rank_and_measure(row)[1][:3])
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6, equal_nan=True)


@needs_compiler
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_no_distribution_fails_alone(broken, compiled):
    logits = random_logits(4, SMALL)
    rows = every_kind_of_row()[:4]
    expected = [repr(info) for info in infos(logits, Rows(rows))]
    logits[2] = broken
    got = infos(logits, Rows(rows))
    assert [row for row, info in enumerate(got) if info.fault] == [2]
    assert [repr(got[row]) for row in (0, 1, 3)] == [expected[row] for row in (0, 1, 3)]


@needs_compiler
def test_once_compiled_it_serves_the_cpu(monkeypatch):
    monkeypatch.setattr(accelerator, "_compiled", [])
    assert accelerator.kernels(torch.device("cpu")) is None
    accelerator.compile_sampler()
    assert accelerator.kernels(torch.device("cpu")) is fused


def test_without_a_compiler_it_says_so_and_changes_nothing(tmp_path):
    program = """
from adaptive import CannotCompile, accelerator, compile_sampler
try:
    compile_sampler()
except CannotCompile as fault:
    print(fault, accelerator._compiled)
"""
    variables = {"CXX": "/nonexistent", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | variables, check=True)
    assert "compiler" in done.stdout
    assert done.stdout.rstrip().endswith("[]")


def test_what_a_compiler_raises_is_told(monkeypatch, tmp_path):
    import torch._inductor.codecache as cache

    monkeypatch.setattr(cache.CppCodeCache, "load", lambda source: 1 / 0)
    (tmp_path / "some.cpp").write_text("int one;")
    with pytest.raises(CannotCompile, match="ZeroDivisionError"):
        library.build(tmp_path / "some.cpp", {})


def test_what_another_processor_has_compiled_is_not_taken(monkeypatch, tmp_path):
    import torch._inductor.codecache as cache

    seen = []
    monkeypatch.setattr(cache.CppCodeCache, "load", seen.append)
    (tmp_path / "some.cpp").write_text("int one;\n")
    for processor in ("flags: avx2", "flags: avx2", "flags: avx2 avx512f"):
        monkeypatch.setattr(library, "_processor", lambda told=processor: told)
        library.build(tmp_path / "some.cpp", {})
    assert seen[0] == seen[1] != seen[2]
    assert seen[0].endswith("int one;\n// flags: avx2\n")
    monkeypatch.undo()
    assert library._processor().startswith(("flags", "Features"))


def test_machine_code_that_others_could_have_put_there_is_not_run(monkeypatch, tmp_path):
    (tmp_path / "some.cpp").write_text("int one;")
    kept = tmp_path / "kept"
    kept.mkdir()
    kept.chmod(0o777)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(kept))
    with pytest.raises(CannotCompile, match=f"others can write to {kept}; TORCHINDUCTOR_CACHE_DIR names another"):
        library.build(tmp_path / "some.cpp", {})
    foreign = SimpleNamespace(stat=lambda: SimpleNamespace(st_uid=os.getuid() + 1, st_mode=0o40755))
    with pytest.raises(PermissionError):
        library._must_be_ours(foreign)


def test_of_what_a_compiler_says_the_error_is_told(tmp_path):
    source = tmp_path / "some.cpp"
    source.write_text("#include <ATen/cpu/vec/vec.h>\nint one = nobody_declared_it;")
    with pytest.raises(CannotCompile, match="nobody_declared_it") as fault:
        library.build(source, {})
    assert len(str(fault.value).splitlines()) == 1
