"""Score tells of a given text what a generation that drew it would have told."""

import pytest

from tests.whole.runs import POLICIES, PROMPT, run
from thermostat import Fixed, Greedy, InvalidRequest
from thermostat.v1 import generation_pb2 as pb
from thermostat.v1.generation_pb2 import SignalRule, Signals

LENGTH = 100
"""More than a step scores at once, so that texts are scored in several pieces."""
_FIGURES = (
    "original_entropy", "final_entropy", "varentropy", "scaled_entropy", "kept_mass", "top_token_prob", "temperature",
)  # fmt: skip


def scored(client, policy, **more):
    """(tokens as they were drawn, the same tokens scored, the end of the scoring)."""
    asked = {"policy": policy, "top_p": 0.95, "penalties": {"frequency": 0.2, "dry_multiplier": 0.4}} | more
    _, drawn, _, _ = run(client.generate(PROMPT, seed=3, ignore_eos=True, max_output_tokens=LENGTH, **asked))
    prompt = list(client.count_tokens(PROMPT).token_ids)
    text = prompt + [token.token_id for token in drawn]
    _, given, finished, _ = run(client.score(text, prompt_tokens=len(prompt), **asked))
    return drawn, given, finished


@pytest.mark.parametrize("name", POLICIES)
def test_scoring_tells_what_drawing_told(name, client):
    """The text is computed as a prompt is, so the last bits may differ: within 1e-3, and counts within the edge."""
    drawn, given, finished = scored(client, POLICIES[name])
    assert [token.token_id for token in given] == [token.token_id for token in drawn]
    assert finished.reason == pb.FINISH_REASON_SCORED
    assert (finished.usage.output_tokens, finished.HasField("resume")) == (LENGTH, False)
    moved = 0
    for before, after in zip(drawn, given, strict=True):
        if before.sampling_info.effective_vocab_size != after.sampling_info.effective_vocab_size:
            moved += 1  # a token at a filter's very edge
            continue
        assert after.logprob == pytest.approx(before.logprob, abs=1e-3)
        assert after.filtered_logprob == pytest.approx(before.filtered_logprob, abs=1e-3)
        assert after.rank == pytest.approx(before.rank, abs=1)
        for figure in _FIGURES:
            assert after.sampling_info.HasField(figure) == before.sampling_info.HasField(figure)
            assert getattr(after.sampling_info, figure) == pytest.approx(
                getattr(before.sampling_info, figure), abs=2e-3
            ), figure
        assert after.sampling_info.policy_state.values == pytest.approx(
            dict(before.sampling_info.policy_state.values), abs=1e-2
        )
    assert moved <= 2


def test_without_prompt_tokens_everything_after_the_first_token_is_scored(client):
    ids = list(client.count_tokens(PROMPT).token_ids)
    started, given, finished, text = run(client.score(PROMPT))
    assert [token.token_id for token in given] == ids[1:]
    assert [token.index for token in given] == list(range(len(ids) - 1))
    assert PROMPT.endswith(text)
    assert (started.prompt_tokens, finished.usage.prompt_tokens) == (1, 1)
    assert finished.summary.perplexity > 1


def test_a_token_that_the_filters_would_have_removed_has_no_filtered_logprob(client):
    _, given, _, _ = run(client.score(PROMPT, policy=Fixed(), top_k=1))
    assert {token.rank == 1 for token in given} == {True, False}
    for token in given:
        assert token.HasField("filtered_logprob") == (token.rank == 1)
    _, greedy, _, _ = run(client.score(PROMPT, policy=Greedy()))
    assert [token.HasField("filtered_logprob") for token in greedy] == [token.rank == 1 for token in given]


def test_a_long_text_does_not_hold_up_others(client):
    """A text as long as the context is scored while another generation runs to its end."""
    model = client.model()
    text = (list(client.count_tokens(PROMPT).token_ids) * model.context_length)[: model.context_length]
    with client.score(text, max_tokens_per_message=64) as scoring:
        _, other, _, _ = run(client.generate(PROMPT, seed=1, max_output_tokens=20, ignore_eos=True))
        _, given, _, _ = run(scoring)
    assert len(other) == 20
    assert len(given) == model.context_length - 1


@pytest.mark.parametrize(
    ("text", "asked", "field"),
    [
        (PROMPT, {"prompt_tokens": 0}, "prompt_tokens"),
        (PROMPT, {"prompt_tokens": 5000}, "prompt_tokens"),
        ([5], {}, "prompt_tokens"),
        ([-1, 5], {}, "token_ids.ids[0]"),
        (PROMPT, {"top_p": 1.5}, "filters.top_p"),
        (
            PROMPT,
            {"signals": Signals(rules=[SignalRule(kind="SIGNAL_KIND_ENTROPY_HIGH", action="SIGNAL_ACTION_STOP")])},
            "signals.rules[0].action",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused_with_its_field(text, asked, field, client):
    with pytest.raises(InvalidRequest) as refused:
        run(client.score(text, **asked))
    assert [violation.field for violation in refused.value.violations] == [field]
