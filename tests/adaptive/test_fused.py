"""The GPU's way through a step gives what the plain way gives, in Triton's interpreter; and its kernels compile."""

import pytest
import torch

from adaptive import (
    Filters,
    Fixed,
    Mirostat,
    Rows,
    RowSettings,
    TargetEntropy,
    accelerator,
)
from adaptive.moments import rank_and_measure as moments_on_cpu
from tests.adaptive.ways import assert_same, fusedly, logits_of, plainly
from tests.compiled import Launches, assert_compile
from tests.interpreted import fused

from adaptive.gpu.kernels import draw, leading, search, survey  # isort: skip  # the interpreted ones

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of infinities in the interpreter


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Blocks and tiles so small that a row has many of them."""
    for name, value in {"BLOCK": 16, "KEEP": 8, "TILE": 128}.items():
        monkeypatch.setattr(fused, name, value)


def test_tiles_of_their_real_size_give_what_the_plain_way_does_and_miss_no_target(monkeypatch):
    """The last row has one likely token and equals: what float32 loses of their sum is the same each time."""
    for name, value in {"BLOCK": 32, "KEEP": 128, "TILE": 4096}.items():
        monkeypatch.setattr(fused, name, value)
    likely = torch.full((1, 20_000), -18.0)
    likely[:, 7] = 0.0
    logits = torch.cat([logits_of(2, 4.0, 20_000), logits_of(1, 1.0, 20_000), likely])
    policies = [TargetEntropy(2.0), Fixed(0.8), Fixed(1.3), TargetEntropy(0.5)]
    settings = [RowSettings(policy, Filters(top_p=0.9), seed=seed) for seed, policy in enumerate(policies)]
    got = fusedly(fused, logits, settings)
    assert_same(got, plainly(logits, settings))
    for place in (0, 3):
        s = (logits[place].double() / got[place][0].temperature).log_softmax(-1)
        assert -(s.exp() * s).sum().item() == pytest.approx(policies[place].target_entropy, abs=1e-6)


def test_a_draw_does_not_depend_on_how_many_programs_a_row_has(monkeypatch):
    logits = logits_of(3, 0.3, 700)
    rows = Rows([RowSettings(filters=Filters(top_p=p)) for p in (0.5, 0.9, 1e-6)])
    setting = fused.Setting(fused.Control(torch.ones(3, dtype=torch.float64)), rows.filters)
    pool = fused.rank(logits).survey.pool(rows, setting)
    u = torch.tensor([0.1, 0.6, 0.9], dtype=torch.float64)
    alone, larger = pool.draw(u), pool.larger
    monkeypatch.setattr(fused, "_processors", lambda device: 12)
    assert pool.survey.programs == 4
    assert torch.equal(pool.draw(u), alone) and torch.equal(pool.larger, larger)
    assert torch.equal(larger, (logits > logits.gather(1, alone[:, None])).sum(-1))


def test_the_kernels_are_checked_before_they_are_used_and_a_failure_is_told(monkeypatch, caplog):
    monkeypatch.setattr(fused, "TILE", 4096)
    monkeypatch.setattr(fused, "BLOCK", 256)
    fused.check(torch.device("cpu"))
    monkeypatch.setattr(fused, "moments_on_cpu", lambda logits: moments_on_cpu(logits + logits.abs()))
    with pytest.raises(ArithmeticError, match="kernels"):
        fused.check(torch.device("cpu"))
    accelerator._checked.cache_clear()
    assert accelerator.kernels(torch.device("cuda")) is None
    assert "without kernels" in caplog.text
    accelerator._checked.cache_clear()


@pytest.mark.parametrize(
    ("module", "names"),
    [(survey, ["survey", "temper"]), (search, ["visit"]), (leading, ["keep", "keep_whole"]), (draw, ["draw"])],
)
def test_what_kernels_are_launched_with_compiles(monkeypatch, tmp_path, module, names):
    launches = Launches(monkeypatch, module, *names)
    logits = logits_of(3, 2.0)
    for settings in (
        [RowSettings(TargetEntropy(1.0), Filters(top_p=0.9))] * 3,
        [RowSettings(TargetEntropy(1.0)), RowSettings(Fixed(0.9), Filters(top_k=9)), RowSettings(Mirostat(3.0))],
    ):
        fusedly(fused, logits, settings)
    launches.assert_compile(tmp_path)


def test_the_kernels_compile_for_an_h100(tmp_path):
    assert_compile(
        """
from itertools import product
from adaptive.gpu.kernels import dice, draw, leading, search, survey

kinds = dict.fromkeys(["logits", "maxima", "values"], "*fp32")
kinds |= dict.fromkeys("table cuts counters queue".split(), "*i32")
kinds |= dict.fromkeys("index bounds tokens larger ids_ seeds positions".split(), "*i64")
numbers = "vocab parts blocks keep rows turn rounds width known drops fields has_saturated has_infeasible"
kinds |= dict.fromkeys(numbers.split(), "i32")
sizes = dict(TILE=4096, TABLE=4096, BLOCK=32, PARTS_2=64, BLOCKS_2=8192, ROWS_2=64)
flags = [dict(zip(("FORESEEN", "LADDER"), on)) for on in product((False, True), repeat=2)]
variants = [(survey.survey, on) for on in flags]
variants += [(search.visit, {"CHOSEN": chosen}) for chosen in (False, True)]
variants += [(kernel, {}) for kernel in (survey.temper, leading.keep, leading.keep_whole, draw.draw, dice.roll)]
for kernel, flags in variants:
    compile(kernel, sizes | flags, kinds, "*fp64")
# Triton takes a 1 for a constant.
ones = dict.fromkeys(["parts", "blocks", "keep", "rows", "width", "turn"], 1)
small = dict(TILE=1024, PARTS_2=1, BLOCKS_2=1, ROWS_2=1, FORESEEN=False, LADDER=False, CHOSEN=False)
for kernel in (survey.survey, survey.temper, search.visit, leading.keep, draw.draw, dice.roll):
    compile(kernel, sizes | ones | small, kinds, "*fp64")
""",
        tmp_path,
    )
