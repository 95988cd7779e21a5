"""A generation cut in two and resumed is the uncut one, for every policy, in every figure."""

import pytest

from tests.whole.runs import POLICIES, PROMPT, bits, run
from thermostat import EntropyEvent, Fixed, InvalidRequest, Mirostat, Output, Phase, Phased
from thermostat.v1.generation_pb2 import Resume, SignalRule, Signals
from thermostat.v1.policy_pb2 import PolicyState

LENGTH = 40
STATE = PolicyState(policy="mirostat", values={"mu": 3.0})
PENALTIES = {"repetition": 1.1, "frequency": 0.1, "presence": 0.1, "dry_multiplier": 0.5}


def options(policy, **more):
    return {"policy": policy, "seed": 5, "ignore_eos": True, "max_output_tokens": LENGTH} | more


@pytest.mark.parametrize("name", POLICIES)
def test_a_resumed_generation_has_the_bits_of_the_uncut_one(name, client):
    """Not only the tokens: every reported figure, state included. The cut is made by max_output_tokens."""
    for more in ({"top_p": 0.95}, {"top_k": 50, "penalties": PENALTIES, "xtc_probability": 0.3}):
        asked = options(POLICIES[name], **more)
        _, uncut, _, text = run(client.generate(PROMPT, **asked))
        for cut in (1, 13, LENGTH - 1):
            _, first, finished, _ = run(client.generate(PROMPT, **(asked | {"max_output_tokens": cut})))
            started, rest, _, _ = run(client.generate(PROMPT, **asked, resume=finished.resume))
            assert list(finished.resume.token_ids) == [token.token_id for token in first]
            assert bits(first + rest) == bits(uncut)
            assert started.max_output_tokens == LENGTH
            assert rest[0].index == cut
        assert text


def test_a_client_can_resume_from_any_token_that_it_has_seen(client):
    """Without Finished, as after a broken stream: from the tokens and the state that rode on the last of them."""
    asked = options(Mirostat(tau=1.5), max_tokens_per_message=1)
    _, uncut, _, text = run(client.generate(PROMPT, **asked))
    seen, shown = [], ""
    with client.generate(PROMPT, **asked) as stream:
        for event in stream:
            if isinstance(event, Output):
                seen += event.tokens
                shown += event.text_delta
            if len(seen) == 17:
                break
    state = seen[-1].sampling_info.policy_state
    resume = Resume(token_ids=[token.token_id for token in seen], policy_state=state)
    _, rest, _, more = run(client.generate(PROMPT, **asked, resume=resume))
    assert bits(seen + rest) == bits(uncut)
    assert shown + more == text


def test_stop_strings_markers_and_windows_reach_over_the_cut(client):
    policy = Phased(
        [Phase(Fixed(0.8), "(self"), Phase(Fixed(0.3), EntropyEvent(below=1.0, tokens=3)), Phase(Fixed(1.2))]
    )
    rules = [SignalRule(kind="SIGNAL_KIND_ENTROPY_COLLAPSE", threshold=1.2, window=8)]
    asked = options(policy, seed=6, signals=Signals(rules=rules), stop_sequences=["\n\n    def"], max_output_tokens=120)
    _, uncut, _, _ = run(client.generate(PROMPT, **asked))
    assert {token.sampling_info.phase for token in uncut} == {0, 1, 2}
    assert any(token.signals for token in uncut)
    for cut in range(1, len(uncut), 17):
        _, first, finished, _ = run(client.generate(PROMPT, **(asked | {"max_output_tokens": cut})))
        _, rest, end, _ = run(client.generate(PROMPT, **asked, resume=finished.resume))
        assert bits(first + rest) == bits(uncut)
        assert end.resume.policy_state.values["phase"] == 2.0


def test_a_form_goes_on_where_it_was(client):
    asked = {"constraint": {"regex": "[a-z]{4,12}(, [a-z]{4,12}){3}"}, "seed": 2, "policy": Fixed(1.2)}
    _, uncut, _, text = run(client.generate(PROMPT, **asked, max_output_tokens=64))
    _, first, finished, _ = run(client.generate(PROMPT, **asked, max_output_tokens=len(uncut) // 2))
    _, rest, _, _ = run(client.generate(PROMPT, **asked, max_output_tokens=64, resume=finished.resume))
    assert bits(first + rest) == bits(uncut)
    assert text.count(", ") == 3


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"seed": None}, "seed"),
        ({"max_output_tokens": 3}, "stopping.max_output_tokens"),
        ({"resume": Resume(token_ids=[1, -1], policy_state=STATE)}, "resume.token_ids[1]"),
        ({"resume": Resume(token_ids=[1])}, "resume.policy_state.policy"),
        ({"resume": Resume(token_ids=[1], policy_state=PolicyState(policy="edt"))}, "resume.policy_state.policy"),
        (
            {"resume": Resume(token_ids=[1], policy_state=PolicyState(policy="mirostat", values={"nu": 1.0}))},
            "resume.policy_state.values",
        ),
        (
            {"resume": Resume(token_ids=[1], policy_state=PolicyState(policy="mirostat", values={"mu": float("nan")}))},
            "resume.policy_state.values.mu",
        ),
        (
            {"resume": Resume(token_ids=[1], policy_state=PolicyState(policy="mirostat", phases=[STATE]))},
            "resume.policy_state.phases",
        ),
        ({"constraint": {"regex": "x+"}, "ignore_eos": None}, "constraint.regex"),
    ],
)
def test_a_resume_that_cannot_be_is_refused_with_its_field(asked, field, client):
    given = Resume(token_ids=[1, 2, 3], policy_state=STATE)
    with pytest.raises(InvalidRequest) as refused:
        run(client.generate(PROMPT, **(options(Mirostat(), resume=given) | asked)))
    assert [violation.field for violation in refused.value.violations] == [field]
