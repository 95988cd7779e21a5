"""What is compiled gives what plain torch gives, and a row's bits in any company. Needs a C++ compiler, as it does."""

import math
import os
import shutil
import subprocess
import sys

import pytest
import torch

from adaptive import CannotCompile, Filters, Fixed, Rows, RowSettings, TargetEntropy, compile_for, compiled, sums
from adaptive.compiled import NUMBERS, Argument, Compilable
from adaptive.moments import rank, rank_and_measure, tempered
from tests.adaptive.cases import edge_rows, every_kind_of_row, infos, random_logits

COMPILER = shutil.which(os.environ.get("CXX", "g++"))
SMALL, LARGE = 90, 33_000
"""Little more than the candidates; and blocks and a rest, where torch would share one long row among threads."""


@pytest.fixture(scope="module")
def machines():
    if COMPILER is None:
        pytest.skip("there is no C++ compiler, which only --compile asks for")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "_machines", {})
        compile_for(SMALL)
        compile_for(LARGE)
        return compiled._machines


@pytest.fixture
def with_machines(machines, monkeypatch):
    monkeypatch.setattr(compiled, "_machines", machines)


@pytest.mark.parametrize("vocab", [SMALL, LARGE])
@pytest.mark.parametrize("spread", [0.1, 3.0, 30.0])
def test_moments_are_those_of_float64(vocab, spread, with_machines):
    logits = random_logits(5, vocab, spread)
    logits[:, ::7] = -math.inf
    inverse = torch.tensor([0.1, 0.5, 1.0, 2.0, 50.0], dtype=torch.float64)
    y = (logits - logits.amax(-1, keepdim=True)).double() * inverse[:, None]
    p = y.softmax(-1)
    expected = [y.exp().sum(-1).log(), *(torch.nansum(p * y**order, -1) for order in (1, 2, 3))]
    got = tempered(rank(logits), inverse)
    for mine, exact in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, exact, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("vocab", [SMALL, LARGE])
def test_shares_are_those_of_float64(vocab, with_machines):
    y = random_logits(4, vocab, 5.0)
    y -= y.amax(-1, keepdim=True)
    y[:, ::7] = -math.inf
    left = (y > torch.tensor([-1.0, -5.0, -30.0, -1e30])[:, None]).float()
    p = y.softmax(-1)
    (found,) = sums.compiled_shares(y)(p, y, left)
    exact = p.double()
    inner = torch.nan_to_num(exact * y, 0.0)
    expected = [one.sum(-1) for one in (exact, inner, left.double(), exact * left, inner * left)]
    torch.testing.assert_close(found, torch.stack([*expected, (exact * left).amax(-1)]), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("spread", [0.5, 1.0, 3.0, 6.0])
def test_a_target_is_met_to_a_millionth_of_a_nat(spread, with_machines):
    for seed in range(6):
        logits = random_logits(8, LARGE, spread, seed)
        for target in (1.5, 2.5, 4.5):
            rows = Rows([RowSettings(TargetEntropy(target, 0.01, 20.0), seed=i) for i in range(8)])
            for row, info in zip(logits.double(), infos(logits, rows), strict=True):
                z = row / info.temperature
                assert -(z.softmax(-1) * z.log_softmax(-1)).sum().item() == pytest.approx(target, abs=1e-6)


def test_some_rows_are_measured_as_they_are_among_all(with_machines):
    logits = random_logits(6, LARGE)
    ranked, inverse = rank(logits), torch.linspace(0.5, 2.0, 6, dtype=torch.float64)
    chosen = torch.tensor([4, 1])
    every, some = tempered(ranked, inverse), tempered(ranked, inverse[chosen], chosen)
    assert torch.equal(torch.stack(some), torch.stack(every)[:, chosen])


@pytest.mark.parametrize(("vocab", "steps"), [(SMALL, 4), (LARGE, 2)])
def test_every_kind_of_row_equals_itself_alone_bit_for_bit_and_nearly_what_is_not_compiled(
    vocab, steps, machines, monkeypatch
):
    kinds = every_kind_of_row()
    plain, together, alone = Rows(kinds), Rows(kinds), [Rows([wish]) for wish in kinds]
    for step in range(steps):
        logits = random_logits(len(kinds), vocab, seed=step)
        expected = infos(logits, plain)
        with monkeypatch.context() as patch:
            patch.setattr(compiled, "_machines", machines)
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


@pytest.mark.parametrize("name", edge_rows(SMALL))
def test_rows_at_every_edge(name, machines, monkeypatch):
    row = edge_rows(SMALL)[name][None].float()
    expected = torch.stack(rank_and_measure(row)[1][:3])
    monkeypatch.setattr(compiled, "_machines", machines)
    got = torch.stack(rank_and_measure(row)[1][:3])
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_no_distribution_fails_alone(broken, with_machines):
    logits = random_logits(4, SMALL)
    rows = every_kind_of_row()[:4]
    expected = [repr(info) for info in infos(logits, Rows(rows))]
    logits[2] = broken
    got = infos(logits, Rows(rows))
    assert [row for row, info in enumerate(got) if info.fault] == [2]
    assert [repr(got[row]) for row in (0, 1, 3)] == [expected[row] for row in (0, 1, 3)]


def test_what_is_declared_goes_to_the_machine_and_anything_else_the_plain_way(monkeypatch):
    rows_of_two = Argument(torch.float32, ("rows", 2))
    arguments = (rows_of_two, NUMBERS._replace(absent=1.0))
    both = Compilable(lambda x, scale: (x if scale is None else x * scale,), arguments)
    compiled._compilables.remove(both)
    seen = []
    monkeypatch.setitem(compiled._machines, (both, 0), lambda *given: seen.append(given))
    ones = torch.ones(3, 2)
    both(ones.t().contiguous().t(), None)
    ((x, scale),) = seen
    assert x.is_contiguous()
    assert scale.tolist() == [1.0, 1.0, 1.0]
    for other in (ones.double(), torch.ones(3, 4), torch.ones(2), ones.to("meta")):
        both(other, None)
    assert len(seen) == 1


def test_a_step_goes_through_every_machine(machines, monkeypatch):
    """None is passed by for arguments that do not fit."""
    used = set()

    def watched(key, machine):
        return lambda *given: used.add(key) or machine(*given)

    monkeypatch.setattr(compiled, "_machines", {key: watched(key, machine) for key, machine in machines.items()})
    rows = Rows([RowSettings(TargetEntropy(2.0), Filters(top_p=0.9)), RowSettings(Fixed(2.0), Filters(top_p=0.9))])
    infos(random_logits(2, LARGE), rows)
    assert {one for one, _ in used} == set(compiled._compilables)


def test_without_a_compiler_it_says_so_and_changes_nothing(tmp_path):
    program = """
from adaptive import CannotCompile, compile_for, compiled
try:
    compile_for(61)
except CannotCompile as fault:
    print(fault, compiled._machines)
"""
    variables = {"CXX": "/nonexistent", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | variables, check=True)
    assert "compiler" in done.stdout
    assert done.stdout.rstrip().endswith("{}")


def test_what_a_compiler_raises_is_told(monkeypatch):
    monkeypatch.setattr(torch._inductor, "standalone_compile", lambda *_, **__: 1 / 0)
    with pytest.raises(CannotCompile, match="ZeroDivisionError"):
        compile_for(62)
    assert 62 not in {vocab for vocab, _ in compiled._machines}
