"""The benchmarks' own logic: figures, tables, the arms' protocol, the models. Nothing is timed."""

import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from benchmarks import models
from benchmarks.arm import Arm, ArmFailed
from benchmarks.cases import Case, Figures, agreement, figures
from benchmarks.contest import OURS, Entry, compete, entries
from benchmarks.machine import ratio, spread, table
from benchmarks.peers.environments import Absent, run
from benchmarks.report import Report, lines, ratio_lines
from benchmarks.worker import Outcome
from server.engine.detokenizer import TokenBytes

SMALL = LlamaConfig(
    vocab_size=4096,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=4096,
    bos_token_id=0,
    eos_token_id=0,
    pad_token_id=0,
)
CASE = Case("embedded", "float32", 3, 8, True, 6)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench") / "small"
    models.make(folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def ours(small):
    with arm("engine", small) as running:
        yield running


def arm(name, model):
    return Arm([sys.executable, "-m", f"benchmarks.arms.{name}", str(model), "float32"])


def test_arms_agree_on_greedy_tokens_and_tell_when_each_came(small, ours, tmp_path):
    with arm("hugging_face", small) as theirs:
        job = CASE.job(0, "greedy")
        one, peak = ours.run(job)
        other, _ = theirs.run(job)
        assert one.tokens == other.tokens and [len(tokens) for tokens in one.tokens] == [6, 6, 6]
        assert all(times == sorted(times) and len(times) == 6 for times in one.times + other.times)
        assert peak > 50
        figured, steps = compete(CASE, {OURS: ours, "theirs": theirs}, [OURS], 2)
    assert [*figured] == [Entry(OURS, "fixed"), Entry("theirs", "fixed"), Entry(OURS, "target")]
    assert all(len(turns) == 2 for turns in figured.values())
    parts = steps[Entry(OURS, "target")][0]
    assert parts["step"] > parts["forward"] > 0 < parts["sampler"] < parts["step"]
    report = Report(tmp_path / "table.md", "today", ["theirs", "another"])
    report.add(CASE, figured, steps)
    assert (tmp_path / "table.md").read_text().count("| embedded | float32 | 3 | 8 |") == 2 + 3 + 2


def test_over_grpc_the_same_tokens_come_as_in_process(small, ours):
    job = CASE.job(1, "target")
    with arm("grpc", small) as remote:
        assert remote.run(job)[0].tokens == ours.run(job)[0].tokens


def test_an_arm_that_cannot_start_says_why():
    with pytest.raises(ArmFailed, match="no such thing"):
        Arm([sys.executable, "-c", "raise SystemExit('no such thing')"])


def test_an_installation_that_fails_says_why():
    with pytest.raises(Absent, match="no wheel"):
        run([sys.executable, "-c", "raise SystemExit('no wheel')"])


def test_prompts_are_the_same_for_every_arm_and_others_in_every_other_job():
    assert CASE.job(0, "greedy") == CASE.job(0, "greedy")
    assert CASE.job(0, "greedy").prompts != CASE.job(0, "fixed").prompts != CASE.job(1, "fixed").prompts
    assert all(0 < token < 4096 for prompt in CASE.job(0, "greedy").prompts for token in prompt)


def test_figures_count_prompts_in_the_rate_and_leave_them_out_of_the_gaps():
    outcome = Outcome([[1, 2, 3], [4, 5, 6]], [[1.0, 1.5, 2.0], [3.0, 3.5, 4.0]])
    assert figures(outcome, 7.0) == (1.5, 2000, 500, 500, 7.0)


def test_agreement_ends_at_a_streams_first_difference():
    assert agreement([[1, 2, 3], [4, 5, 6]], [[1, 9, 3], [4, 5, 6]]) == 4 / 6


def test_ratios_are_taken_turn_by_turn():
    assert ratio([10, 1, 4], [5, 2, 4]) == "1 (0.75-1.5)"
    assert spread([3.0]) == "3 (3-3)"


def test_who_lacks_target_entropy_is_compared_by_its_fixed_run():
    rates = {Entry(OURS, "fixed"): 2.0, Entry("theirs", "fixed"): 1.0, Entry(OURS, "target"): 0.5}
    turns = {entry: [Figures(rate, 1.0, 1.0, 1.0, 1.0)] for entry, rate in rates.items()}
    assert [line[-1] for line in ratio_lines(CASE, turns, ["theirs"])] == ["2 (2-2)", "0.5 (0.5-0.5)"]
    assert [line[-1] for line in ratio_lines(CASE, turns, ["another"])] == ["absent", "absent"]
    assert [line[5] for line in lines(CASE, turns)] == [OURS, "theirs", OURS]
    assert [*entries(CASE._replace(sampled=False), ["a"], ["a"])] == [Entry("a", "greedy")]


def test_a_table_is_markdown():
    assert table(["a", "b"], [["1", "2"]]) == ["| a | b |", "| --- | --- |", "| 1 | 2 |"]


def test_the_model_is_the_same_each_time_and_its_tokens_have_bytes(small, tmp_path):
    models.make(tmp_path / "again", SMALL)
    one, other = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (small, tmp_path / "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    tokens = AutoTokenizer.from_pretrained(small)
    spell = TokenBytes(tokens)
    assert len(tokens) == SMALL.vocab_size
    assert b"".join(map(spell, tokens("import os\n")["input_ids"])) == b"import os\n"
