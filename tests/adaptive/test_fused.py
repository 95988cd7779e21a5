"""The GPU's way through a step gives what the plain way gives, in Triton's interpreter; and its kernels compile."""

import pytest
import torch

from adaptive import (
    Fault,
    Filters,
    Fixed,
    Greedy,
    Mirostat,
    Penalties,
    Quadrant,
    Rows,
    RowSettings,
    SamplingInfo,
    TargetEntropy,
    step,
)
from adaptive.draw import uniform
from adaptive.gpu import accelerator
from adaptive.moments import rank_and_measure as moments_on_cpu
from adaptive.penalties import History
from tests.compiled import Launches, assert_compile
from tests.interpreted import fused

from adaptive.gpu.kernels import draw, leading, search, survey  # isort: skip  # the interpreted ones

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of infinities in the interpreter
VOCAB = 320
FILTERS = [
    Filters(),
    Filters(top_k=7),
    Filters(top_k=200),
    Filters(top_p=0.6),
    Filters(top_p=0.97),
    Filters(min_p=0.02),
    Filters(top_k=200, top_p=0.5),
    Filters(top_k=300, top_p=0.9, min_p=0.3),
    Filters(top_p=0.9, min_p=0.001),
]
SPREADS = {"flat": 0.3, "peaked": 4.0}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Blocks and tiles so small that a row has many of them."""
    for name, value in {"BLOCK": 16, "KEEP": 8, "TILE": 128}.items():
        monkeypatch.setattr(fused, name, value)


def logits_of(rows: int, spread: float, vocab: int = VOCAB, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * spread


def plainly(logits, settings, **others):
    """The step as a GPU without kernels takes it: every row looks at its whole vocabulary, and draws in order of id."""
    rows = Rows(settings)
    rows.quick, rows.slow = [], list(range(len(settings)))
    return step(logits, rows, **others)[1].records()


def fusedly(monkeypatch, logits, settings, **others):
    with monkeypatch.context() as patch:
        patch.setattr(accelerator, "kernels", lambda device: fused)
        return step(logits, Rows(settings), **others)[1].records()


def assert_same(got: list, expected: list) -> None:
    for (one, choices), (other, others) in zip(got, expected, strict=True):
        for name, mine, theirs in zip(SamplingInfo._fields, one, other, strict=True):
            assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-4, nan_ok=True), (name, one, other)
        assert one.token_id == other.token_id
        mine, theirs = ([value for choice in one for value in choice] for one in (choices, others))
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-4, nan_ok=True)


@pytest.mark.parametrize("spread", SPREADS)
def test_leading_filters_leave_and_draw_what_the_plain_way_does(monkeypatch, spread):
    settings = [RowSettings(Fixed(0.8), filters, seed=seed) for seed, filters in enumerate(FILTERS)]
    logits = logits_of(len(settings), SPREADS[spread])
    assert_same(fusedly(monkeypatch, logits, settings), plainly(logits, settings))


def test_bfloat16_logits_with_many_ties_split_at_the_edge_as_the_plain_way_does(monkeypatch):
    settings = [RowSettings(Fixed(1.2), filters, seed=seed) for seed, filters in enumerate(FILTERS[1:7])]
    logits = (logits_of(len(settings), 6.0).round() / 4).bfloat16()
    assert_same(fusedly(monkeypatch, logits, settings), plainly(logits, settings))


def test_of_equals_top_p_keeps_the_higher_ids(monkeypatch):
    settings = [RowSettings(filters=Filters(top_p=0.3), seed=seed) for seed in range(4)]
    drawn = [info.token_id for info, _ in fusedly(monkeypatch, torch.zeros(4, 400), settings)]
    assert min(drawn) >= 280


def test_of_equals_top_k_keeps_all(monkeypatch):
    ((info, _),) = fusedly(monkeypatch, torch.zeros(1, 400), [RowSettings(filters=Filters(top_k=3))])
    assert info.effective_vocab_size == 400


def test_a_greedy_row_takes_the_lowest_id_of_the_most_likely(monkeypatch):
    logits = torch.zeros(2, 100)
    logits[0, [40, 60]] = logits[1, [70, 99]] = 3.0
    records = fusedly(monkeypatch, logits, [RowSettings(Greedy(), Filters(top_k=5)), RowSettings(Greedy())])
    assert [info.token_id for info, _ in records] == [40, 70]
    assert [info.effective_vocab_size for info, _ in records] == [1, 1]


def test_policies_that_drop_set_filters_or_search_are_served(monkeypatch):
    policies = [
        Mirostat(3.0), Mirostat(0.5), TargetEntropy(1.0), TargetEntropy(3.0), TargetEntropy(6.5), TargetEntropy(0.0),
        Quadrant(low_low_top_k=2, low_high_top_p=0.6, high_low_min_p=0.1, entropy_gain=0.2), Greedy(),
    ]  # fmt: skip
    settings = [RowSettings(policy, FILTERS[i % 3 + 2], seed=i, candidates=3) for i, policy in enumerate(policies)]
    logits = logits_of(len(settings), 2.5)
    assert_same(fusedly(monkeypatch, logits, settings), plainly(logits, settings))


@pytest.mark.parametrize("vocab", [40, 2500])
def test_target_entropy_is_reached_to_a_millionth(monkeypatch, vocab):
    """The vocabularies lie on both sides of the size from which on float32 is trusted."""
    targets = [0.2, 1.0, 2.0, 3.0]
    settings = [RowSettings(TargetEntropy(target, 0.01, 100.0)) for target in targets]
    records = fusedly(monkeypatch, logits_of(4, 3.0, vocab), settings)
    assert [info.scaled_entropy for info, _ in records] == pytest.approx(targets, abs=2e-6)


def test_tiles_of_their_real_size_give_what_the_plain_way_does_and_miss_no_target(monkeypatch):
    """The last row has one likely token and equals: what float32 loses of their sum is the same each time."""
    for name, value in {"BLOCK": 32, "KEEP": 128, "TILE": 4096}.items():
        monkeypatch.setattr(fused, name, value)
    likely = torch.full((1, 20_000), -18.0)
    likely[:, 7] = 0.0
    logits = torch.cat([logits_of(2, 4.0, 20_000), logits_of(1, 1.0, 20_000), likely])
    policies = [TargetEntropy(2.0), Fixed(0.8), Fixed(1.3), TargetEntropy(0.5)]
    settings = [RowSettings(policy, Filters(top_p=0.9), seed=seed) for seed, policy in enumerate(policies)]
    got = fusedly(monkeypatch, logits, settings)
    assert_same(got, plainly(logits, settings))
    for place in (0, 3):
        s = (logits[place].double() / got[place][0].temperature).log_softmax(-1)
        assert -(s.exp() * s).sum().item() == pytest.approx(policies[place].target_entropy, abs=1e-6)


def test_rows_with_other_filters_go_the_plain_way_beside_the_others(monkeypatch):
    settings = [
        RowSettings(Fixed(0.9), Filters(top_p=0.7), seed=1),
        RowSettings(Fixed(0.9), Filters(typical_p=0.6), seed=2),
        RowSettings(Fixed(0.9), Filters(top_k=20, top_h=0.4), seed=3),
    ]
    logits = logits_of(3, 2.0)
    assert_same(fusedly(monkeypatch, logits, settings), plainly(logits, settings))


def test_changed_logits_are_filtered_and_the_raw_ones_measured(monkeypatch):
    history = History((5, 6, 7), (8, 9))
    settings = [
        RowSettings(Fixed(0.9), Filters(top_p=0.7), seed=1, bias={3: 9.0, 4: -5.0}),
        RowSettings(Fixed(0.9), Filters(top_k=9), penalties=Penalties(repetition=1.5), history=history),
    ]
    logits = logits_of(2, 1.0)
    assert_same(fusedly(monkeypatch, logits, settings), plainly(logits, settings))


def test_given_tokens_are_scored_kept_or_not(monkeypatch):
    settings = [RowSettings(Fixed(0.9), Filters(top_p=0.5))] * 2
    logits = logits_of(2, 3.0)
    tokens = torch.stack([logits[0].argmax(), logits[1].argmin()])
    got = fusedly(monkeypatch, logits, settings, tokens=tokens)
    assert_same(got, plainly(logits, settings, tokens=tokens))
    assert got[1][0].filtered_logprob != got[1][0].filtered_logprob


def test_a_row_that_is_no_distribution_fails_alone(monkeypatch):
    settings = [RowSettings(filters=Filters(top_p=0.7, top_k=50), seed=seed) for seed in range(5)]
    logits = logits_of(5, 2.0)
    alone = fusedly(monkeypatch, logits[:1], settings[:1])
    logits[1, 7], logits[2, 7], logits[3] = torch.nan, torch.inf, -torch.inf
    logits[4, 100:] = -torch.inf
    records = fusedly(monkeypatch, logits, settings)
    assert [info.fault for info, _ in records] == [0, Fault.LOGITS, Fault.LOGITS, Fault.LOGITS, 0]
    assert_same(records[:1], alone)
    assert records[4][0].token_id < 100


def test_draws_follow_the_distribution_that_is_reported():
    """At equally spaced numbers three tokens come as often as their probabilities say."""
    logits = torch.full((20, 60), -torch.inf)
    logits[:, [10, 20, 50]] = torch.tensor([0.2, 0.5, 0.3]).log()
    ranked = fused.rank(logits)
    rows = Rows([RowSettings(filters=Filters(top_p=0.99))] * 20)
    one = torch.ones(20, dtype=torch.float64)
    setting = fused.Setting(fused.Control(one), rows.filters)
    pool = ranked.survey.pool(rows, setting)
    drawn = pool.draw((torch.arange(20, dtype=torch.float64) + 0.5) / 20)
    assert drawn.bincount(minlength=60)[[10, 20, 50]].tolist() == [4, 10, 6]
    assert pool.probabilities(60)[0, [10, 20, 50]].tolist() == pytest.approx([0.2, 0.5, 0.3])


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


def test_rows_that_go_on_in_float64_or_visit_after_visit_arrive_too(monkeypatch):
    """Steep and flat slopes, a target that float32 may miss; and a search that one program makes alone."""
    monkeypatch.setattr(fused, "_VISITS", 1)
    steep = logits_of(1, 0.05, 2500) - 9.0
    steep[:, :3] = torch.tensor([0.0, -1e-4, -2e-4])
    logits = torch.cat([logits_of(2, 0.01, 2500), logits_of(1, 6.0, 2500), steep])
    targets = [7.8, 5.5, 0.02, 1.3]
    settings = [RowSettings(TargetEntropy(target, 1e-3, 100.0)) for target in targets]
    records = fusedly(monkeypatch, logits, settings)
    assert [info.scaled_entropy for info, _ in records] == pytest.approx(targets, abs=2e-6)
    for (info, _), row in zip(records, logits.double(), strict=True):
        s = (row / info.temperature).log_softmax(-1)
        assert -(s.exp() * s).sum().item() == pytest.approx(info.scaled_entropy, abs=2e-6)


def test_numbers_come_from_seed_and_position(monkeypatch):
    logits = logits_of(1, 0.0).expand(6, -1)
    settings = [RowSettings(seed=seed, position=3) for seed in range(6)]
    drawn = [info.token_id for info, _ in fusedly(monkeypatch, logits, settings)]
    numbers = uniform(torch.arange(6), torch.full((6,), 3))
    assert drawn == (numbers * VOCAB).long().tolist()


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


def test_the_cpu_has_no_kernels():
    assert accelerator.kernels(torch.device("cpu")) is None


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
        fusedly(monkeypatch, logits, settings)
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
