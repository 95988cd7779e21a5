"""The logits processor in `generate` against the step of the library itself, on tiny random models."""

import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor

from adaptive import (
    PRESETS,
    AdaptiveP,
    Course,
    EntropyBand,
    EntropyEvent,
    EntropyFeedback,
    Filters,
    Fixed,
    Greedy,
    History,
    Mirostat,
    ParameterError,
    Penalties,
    Phase,
    Phased,
    Policy,
    Rows,
    RowSettings,
    TargetEntropy,
    step,
)
from adaptive.huggingface import AdaptiveLogitsProcessor
from tests import models

PAD, LENGTH = 4095, 12
NO_END = {"eos_token_id": None}  # random models would end anywhere
PHASED = Phased((Phase(Mirostat(), 3), Phase(EntropyFeedback(), EntropyEvent(above=0.1, tokens=2)), Phase(Fixed(0.8))))
SETTINGS = [
    RowSettings(EntropyBand(), Filters(top_p=0.95), seed=1),
    RowSettings(TargetEntropy(2.0), Filters(min_p=0.01, xtc_probability=0.5, xtc_threshold=0.05), seed=2),
    RowSettings(Mirostat(), Filters(top_k=200), seed=3, penalties=Penalties(1.3, presence=0.5, dry_multiplier=0.8)),
    RowSettings(AdaptiveP(0.3), seed=2**64 - 1, penalties=Penalties(frequency=0.4), candidates=2),
    RowSettings(Greedy(), seed=5, bias={7: 2.5}),
    RowSettings(PHASED, Filters(typical_p=0.9), seed=6),
    RowSettings(EntropyFeedback(measure="surprisal"), Filters(top_n_sigma=1.5), seed=7, position=40),
    RowSettings(PRESETS["entropix"].policy, seed=8),
]
PROMPTS = [list(range(10, 10 + length)) for length in (5, 1, 9, 12, 3, 7, 2, 4)]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = models.make(tmp_path_factory.mktemp("models"), "llama", models.FAMILIES["llama"])
    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(models.EMBEDDED)


def padded(prompts, pad=PAD):
    """Left-padded prompts, as generate takes them."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return {"input_ids": ids, "attention_mask": mask}


def generate(network, processor, inputs, **more):
    """(the new tokens of each row, its records)."""
    arguments = processor.arguments(inputs["attention_mask"])
    asked = arguments | {"pad_token_id": PAD, "max_new_tokens": LENGTH, "return_dict_in_generate": True} | more
    out = network.generate(**inputs, **asked)
    width = inputs["input_ids"].shape[-1]
    return out.sequences[:, width:].tolist(), processor.finish(out)


@torch.no_grad()
def reference(network, prompt, settings, given=None):
    """The same row alone: the whole text computed at each step, then `adaptive.step`, as the server does it."""
    course, tokens, records = Course(settings.policy), [], []
    history = History(prompt)
    rows = Rows([RowSettings(course.policy, settings.filters, settings.seed, settings.position, settings.candidates,
                             course.state, settings.penalties, settings.bias, history)])  # fmt: skip
    for place in range(LENGTH):
        logits = network(torch.tensor([prompt + tokens])).logits[:, -1]
        drawn, report = step(logits, rows, tokens=None if given is None else torch.tensor([given[place]]))
        info, _ = report.records()[0]
        tokens.append(int(drawn))
        records.append(info)
        if course.take(info.state, info.original_entropy, ""):
            anew = RowSettings(course.policy, settings.filters, settings.seed, state=course.state)
            rows = rows.change([0], anew={0: anew})
    return tokens, records


def assert_alike(found, expected):
    """The same tokens and figures. float32 of a padded batch and of a row alone differ in their last bits."""
    assert [info.token_id for info in found] == [info.token_id for info in expected]
    for one, other in zip(found, expected, strict=True):
        for name, value, wanted in zip(one._fields, one, other, strict=True):
            assert value == pytest.approx(wanted, rel=1e-3, abs=1e-4, nan_ok=True), name


def test_a_batch_of_different_policies_draws_what_the_library_draws_for_each_row_alone(network):
    tokens, records = generate(network, AdaptiveLogitsProcessor(SETTINGS), padded(PROMPTS), **NO_END)
    for row, (prompt, settings) in enumerate(zip(PROMPTS, SETTINGS, strict=True)):
        expected, infos = reference(network, prompt, settings)
        assert tokens[row] == expected
        assert_alike(records[row], infos)


def test_without_its_own_draw_the_figures_are_those_of_what_generate_drew(network):
    torch.manual_seed(3)
    processor = AdaptiveLogitsProcessor(SETTINGS, draws=False)
    tokens, records = generate(network, processor, padded(PROMPTS), **NO_END)
    for row, (prompt, settings) in enumerate(zip(PROMPTS, SETTINGS, strict=True)):
        assert_alike(records[row], reference(network, prompt, settings, tokens[row])[1])


def test_without_its_own_draw_generate_is_given_the_shaped_distribution(network):
    processor = AdaptiveLogitsProcessor(SETTINGS, draws=False)
    inputs = padded(PROMPTS)
    arguments = processor.arguments(inputs["attention_mask"]) | NO_END
    out = network.generate(
        **inputs, **arguments, pad_token_id=PAD, max_new_tokens=4, output_scores=True, return_dict_in_generate=True
    )
    records = processor.finish(out)
    for place, scores in enumerate(out.scores):
        assert torch.allclose(scores.exp().sum(-1), torch.ones(len(PROMPTS)), atol=1e-5)
        for row, infos in enumerate(records):
            info = infos[place]
            assert int((scores[row] > -torch.inf).sum()) == info.effective_vocab_size
            assert float(scores[row, info.token_id]) == pytest.approx(info.filtered_logprob, abs=1e-5)


def test_its_draw_is_not_touched_by_what_generate_filters_by_default(network):
    bare = AdaptiveLogitsProcessor(SETTINGS)
    alone = generate(network, AdaptiveLogitsProcessor(SETTINGS), padded(PROMPTS), **NO_END)
    for more in ({"do_sample": True, "temperature": 0.3, "top_k": 50}, {"do_sample": False}):
        out = network.generate(
            **padded(PROMPTS), logits_processor=[bare], pad_token_id=PAD, max_new_tokens=LENGTH, **more
        )
        assert out[:, 12:].tolist() == alone[0]
        bare.finish(out)


def test_candidates_are_those_of_the_rows_that_ask(network):
    processor = AdaptiveLogitsProcessor(SETTINGS)
    _, records = generate(network, processor, padded(PROMPTS), **NO_END)
    assert [len(choices) for choices in processor.choices[3]] == [2] * LENGTH
    assert processor.choices[0] == [[]] * LENGTH
    assert processor.choices[3][0][0].logprob >= records[3][0].logprob


# Padding.


@pytest.mark.parametrize("knows", ["mask", "token", "token that is also the end"])
def test_penalties_do_not_count_padding(network, knows):
    """Every row would be penalised for the padding token, and would lose it, if padding counted."""
    strong = RowSettings(Greedy(), bias={PAD: 8.0}, penalties=Penalties(repetition=1e6))
    prompts = [[5, 6, 7, 8], [9]]
    processor = AdaptiveLogitsProcessor([strong] * 2, pad_token_id=PAD, eos_token_id=PAD if "end" in knows else None)
    inputs = padded(prompts)
    if knows == "mask":
        _, records = generate(network, processor, inputs, **NO_END)
    else:
        out = network.generate(
            **inputs, logits_processor=[processor], pad_token_id=PAD, max_new_tokens=3, do_sample=False, **NO_END
        )
        records = processor.finish(out)
    for prompt, infos in zip(prompts, records, strict=True):
        length = len(infos)
        assert_alike(infos, reference(network, prompt, strong)[1][:length])
    assert records[1][0].token_id == PAD


def test_num_return_sequences_repeats_the_mask_and_counts_the_seeds_up(network):
    settings = RowSettings(Fixed(), seed=2**64 - 1, penalties=Penalties(repetition=1.5))
    inputs = padded([[5, 6, 7], [9]])
    tokens, _ = generate(network, AdaptiveLogitsProcessor(settings), inputs, num_return_sequences=2, **NO_END)
    for row, (prompt, seed) in enumerate([([5, 6, 7], 2**64 - 1), ([5, 6, 7], 0), ([9], 1), ([9], 2)]):
        alone = RowSettings(Fixed(), seed=seed, penalties=Penalties(repetition=1.5))
        assert tokens[row] == reference(network, prompt, alone)[0]


# Ends.


@pytest.mark.parametrize("draws", [True, False])
def test_a_row_that_has_ended_keeps_its_records_and_the_others_go_on(network, draws):
    settings = [RowSettings(Greedy()), RowSettings(Greedy())]
    prompts = PROMPTS[2:4]
    first = reference(network, prompts[0], settings[0])[0]
    other = reference(network, prompts[1], settings[1])[0]
    end = next(token for token in first if token not in other)
    processor = AdaptiveLogitsProcessor(settings, pad_token_id=PAD, eos_token_id=end, draws=draws)
    tokens, records = generate(network, processor, padded(prompts))
    stop = first.index(end) + 1
    assert [info.token_id for info in records[0]] == first[:stop] == tokens[0][:stop]
    assert set(tokens[0][stop:]) == {PAD}
    assert [info.token_id for info in records[1]] == other


def test_a_row_that_a_stop_string_has_ended_keeps_its_records(network, tokenizer):
    first = reference(network, PROMPTS[2], RowSettings(Greedy()))[0]
    processor = AdaptiveLogitsProcessor([Greedy(), Greedy()], pad_token_id=PAD)
    stop = tokenizer.decode(first[2])
    tokens, records = generate(
        network, processor, padded(PROMPTS[2:4]), stop_strings=[stop], tokenizer=tokenizer, eos_token_id=4094
    )
    ended = next(i for i, token in enumerate(first) if stop in tokenizer.decode(first[: i + 1])) + 1
    assert [info.token_id for info in records[0]] == first[:ended]
    assert set(tokens[0][ended:]) <= {PAD}
    assert len(records[1]) == len([token for token in tokens[1] if token != PAD])


def test_a_row_may_end_by_a_token_that_the_processor_was_not_told(network):
    prompts = PROMPTS[2:4]
    first, other = (reference(network, prompt, RowSettings(Greedy()))[0] for prompt in prompts)
    end = next(token for token in first if token not in other)
    processor = AdaptiveLogitsProcessor([Greedy(), Greedy()])
    out = network.generate(
        **padded(prompts), logits_processor=[processor], eos_token_id=end, pad_token_id=PAD, max_new_tokens=LENGTH
    )
    records = processor.finish(out)
    assert [info.token_id for info in records[0]] == first[: first.index(end) + 1]
    assert [info.token_id for info in records[1]] == other


def test_steps_that_generate_takes_back_at_its_end_leave_no_record():
    """On a GPU it looks for the end some steps late, and cuts what it has drawn meanwhile."""
    torch.manual_seed(0)
    processor, ids = AdaptiveLogitsProcessor(Greedy()), torch.tensor([[1, 2]])
    for _ in range(5):
        ids = torch.cat([ids, processor(ids, torch.randn(1, 50)).argmax(-1, keepdim=True)], -1)
    (infos,) = processor.finish(ids[:, :5])
    assert [info.token_id for info in infos] == ids[0, 2:5].tolist()


# Another generation, and what is no generation.


def test_a_processor_serves_one_generation_after_another(network):
    processor = AdaptiveLogitsProcessor(SETTINGS[0])
    inputs = padded(PROMPTS[:1])
    first = generate(network, processor, inputs, **NO_END)
    assert generate(network, processor, inputs, **NO_END)[0] == first[0]
    other = generate(network, processor, padded(PROMPTS[1:2]), **NO_END)
    assert other[0][0] == reference(network, PROMPTS[1], SETTINGS[0])[0]


def test_a_generation_that_goes_on_where_the_last_ended_is_the_uncut_one(network):
    settings = RowSettings(Mirostat(), seed=4, penalties=Penalties(frequency=0.5))
    whole, infos = reference(network, PROMPTS[0], settings)
    processor = AdaptiveLogitsProcessor(settings)
    ids = torch.tensor([PROMPTS[0]])
    for _ in range(2):
        ids = network.generate(ids, logits_processor=[processor], max_new_tokens=LENGTH // 2, **NO_END)
    assert ids[0, len(PROMPTS[0]) :].tolist() == whole
    assert_alike(processor.finish(ids)[0], infos)


def test_a_policy_alone_draws_anew_each_time_and_tells_its_seeds(network):
    processor = AdaptiveLogitsProcessor(Fixed(1.5))
    inputs = padded([PROMPTS[0]] * 2)
    tokens, _ = generate(network, processor, inputs, **NO_END)
    assert tokens[0] != tokens[1]
    again, _ = generate(network, AdaptiveLogitsProcessor(processor.settings), inputs, **NO_END)
    assert again == tokens
    assert generate(network, processor, inputs, **NO_END)[0] != tokens


@pytest.mark.parametrize("draws", [True, False])
def test_beam_search_is_refused(network, draws):
    processor = AdaptiveLogitsProcessor(Fixed(), draws=draws)
    with pytest.raises(ValueError, match="beam search"):
        network.generate(torch.tensor([PROMPTS[0]]), logits_processor=[processor], num_beams=3, max_new_tokens=5)


def test_steps_that_do_not_follow_one_another_are_refused(network):
    processor = AdaptiveLogitsProcessor(Fixed())
    ids, scores = torch.tensor([[1, 2]]), torch.randn(1, 50)
    token = processor(ids, scores).argmax(-1, keepdim=True)
    longer = torch.cat([ids, token, token], -1)
    with pytest.raises(ValueError, match="assisted"):
        processor(longer, scores)
    with pytest.raises(ValueError, match="not what this processor"):
        processor.finish(torch.tensor([[3, 2, 1]]))


def test_a_processor_behind_it_that_takes_the_token_away_is_refused(network):
    class Ban(LogitsProcessor):
        def __call__(self, input_ids, scores):
            return torch.zeros_like(scores).scatter_(-1, scores.argmax(-1, keepdim=True), -torch.inf)

    processor = AdaptiveLogitsProcessor(Greedy(), pad_token_id=PAD)
    with pytest.raises(ValueError, match="rule out"):
        network.generate(
            torch.tensor([PROMPTS[0]]), logits_processor=[processor, Ban()], max_new_tokens=5, do_sample=False, **NO_END
        )


def test_finish_without_a_generation_is_refused():
    with pytest.raises(ValueError, match="nothing was generated"):
        AdaptiveLogitsProcessor(Fixed()).finish(torch.zeros(1, 3))


def test_the_number_of_settings_must_be_the_number_of_rows(network):
    with pytest.raises(ParameterError, match=r"settings: .* 2 rows, 3 settings"):
        generate(network, AdaptiveLogitsProcessor([Fixed()] * 3), padded(PROMPTS[:2]))


# Phases that end at a marker.


def test_a_marker_needs_a_tokenizer():
    with pytest.raises(ParameterError, match="tokenizer"):
        AdaptiveLogitsProcessor([Fixed(), Phased((Phase(Fixed(), "</think>"), Phase(Greedy())))])


def test_a_marker_turns_the_phase_after_the_token_that_completes_it(network, tokenizer):
    greedy = reference(network, PROMPTS[2], RowSettings(Greedy()))[0]
    marker = tokenizer.decode(greedy[1:3])[-3:]
    reached = next(i for i in range(LENGTH) if marker in tokenizer.decode(greedy[: i + 1]))
    policy = Phased((Phase(Greedy(), marker), Phase(Fixed(0.5))))
    _, (infos,) = generate(
        network, AdaptiveLogitsProcessor(policy, tokenizer=tokenizer), padded(PROMPTS[2:3]), **NO_END
    )
    hot = [info.temperature == 0.5 for info in infos]
    assert hot == [False] * (reached + 1) + [True] * (LENGTH - reached - 1)


# A row that fails.


class Failing(Policy):
    """Raises at every step."""

    name = "failing"

    @classmethod
    def parameters(cls):
        return iter(())

    @classmethod
    def control(cls, statistics, parameters, state):
        raise ArithmeticError("as asked")


@pytest.mark.parametrize("draws", [True, False])
def test_a_row_whose_policy_fails_ends_alone(network, draws):
    settings = [SETTINGS[0], RowSettings(Failing()), SETTINGS[0]]
    processor = AdaptiveLogitsProcessor(settings, pad_token_id=PAD, eos_token_id=4094, draws=draws)
    tokens, records = generate(network, processor, padded(PROMPTS[:3]))
    assert processor.faults == {1: "the policy failed: ArithmeticError: as asked"}
    assert records[1] == []
    assert tokens[1] == [4094] + [PAD] * (LENGTH - 1)
    if draws:
        assert tokens[0] == reference(network, PROMPTS[0], SETTINGS[0])[0]
        assert tokens[2] == reference(network, PROMPTS[2], SETTINGS[0])[0]
    assert len(records[0]) == len(records[2]) == LENGTH


def test_a_row_of_the_model_that_is_no_distribution_ends_alone():
    processor = AdaptiveLogitsProcessor([Greedy(), Greedy()], eos_token_id=0)
    ids, scores = torch.tensor([[3], [4]]), torch.randn(2, 10)
    scores[1, 5] = torch.nan
    logs = processor(ids, scores)
    assert logs[1].argmax() == 0 and logs[0].argmax() == scores[0].argmax()
    records = processor.finish(torch.cat([ids, logs.argmax(-1, keepdim=True)], -1))
    assert [len(infos) for infos in records] == [1, 0]
    assert "no distribution" in processor.faults[1]


def test_a_row_that_fails_where_no_end_is_known_raises():
    processor = AdaptiveLogitsProcessor(RowSettings(Failing()))
    with pytest.raises(RuntimeError, match="eos_token_id"):
        processor(torch.tensor([[3]]), torch.randn(1, 10))


def test_adaptive_itself_does_not_import_transformers():
    code = "import sys, adaptive, adaptive.plugins; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
