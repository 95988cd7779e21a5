"""Signals over the socket: they ride on the token that raised them, end the generation, or turn a phase."""

import pytest

from tests.whole.runs import PROMPT, run
from thermostat import EntropyBand, Fixed, InvalidRequest, Phase, Phased, TargetEntropy
from thermostat.v1 import generation_pb2 as pb
from thermostat.v1.generation_pb2 import SignalRule, Signals

BASE = {"seed": 3, "max_output_tokens": 60, "ignore_eos": True}


def signals(*rules):
    return Signals(rules=[SignalRule(**rule) for rule in rules])


def test_nothing_is_watched_unless_it_is_asked_for(client):
    _, drawn, _, _ = run(client.generate(PROMPT, policy=EntropyBand(), **BASE))
    assert not any(token.signals for token in drawn)


def test_a_signal_rides_on_the_token_that_raised_it(client):
    rule = {"kind": "SIGNAL_KIND_ENTROPY_HIGH", "threshold": 3.0}
    _, drawn, finished, _ = run(client.generate(PROMPT, **BASE, signals=signals(rule)))
    high = [token.sampling_info.original_entropy >= 3.0 for token in drawn]
    assert any(high)
    assert [bool(token.signals) for token in drawn] == high
    signal = next(token.signals[0] for token in drawn if token.signals)
    assert (signal.kind, signal.threshold, signal.action) == (pb.SIGNAL_KIND_ENTROPY_HIGH, 3.0, pb.SIGNAL_ACTION_REPORT)
    assert finished.reason == pb.FINISH_REASON_MAX_OUTPUT_TOKENS


def test_watching_changes_no_token(client):
    plain = run(client.generate(PROMPT, policy=EntropyBand(), **BASE))[1]
    watched = run(client.generate(PROMPT, policy=EntropyBand(), **BASE, signals="strict"))[1]
    assert [token.token_id for token in plain] == [token.token_id for token in watched]
    assert any(token.signals for token in watched)


def test_a_rule_can_end_the_generation(client):
    rule = {"kind": "SIGNAL_KIND_ENTROPY_HIGH", "threshold": 3.0, "action": "SIGNAL_ACTION_STOP"}
    _, drawn, finished, text = run(client.generate(PROMPT, **BASE, signals=signals(rule)))
    assert finished.reason == pb.FINISH_REASON_ENTROPY_STOP
    assert [bool(token.signals) for token in drawn] == [False] * (len(drawn) - 1) + [True]
    assert b"".join(token.token_bytes for token in drawn).decode(errors="replace") == text


def test_a_rule_can_turn_the_phase(client):
    rule = {"kind": "SIGNAL_KIND_ENTROPY_HIGH", "threshold": 3.0, "action": "SIGNAL_ACTION_NEXT_PHASE"}
    policy = Phased([Phase(Fixed(1.0), 1000), Phase(TargetEntropy(0.2))])
    _, drawn, _, _ = run(client.generate(PROMPT, policy=policy, **BASE, signals=signals(rule)))
    phases = [token.sampling_info.phase for token in drawn]
    turn = phases.index(1)
    assert phases == [0] * turn + [1] * (len(drawn) - turn)
    assert [bool(token.signals) for token in drawn[:turn]] == [False] * (turn - 1) + [True]
    assert drawn[turn - 1].sampling_info.temperature == 1.0 != drawn[turn].sampling_info.temperature


def test_saturation_is_a_signal_after_its_window(client):
    rule = {"kind": "SIGNAL_KIND_SATURATED", "window": 5}
    _, drawn, finished, _ = run(client.generate(PROMPT, policy=TargetEntropy(8.0), **BASE, signals=signals(rule)))
    assert finished.summary.saturated_share == 1.0
    assert [token.signals[0].value if token.signals else 0 for token in drawn] == [0] * 4 + list(range(5, 61))


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ("loud", "signals.preset"),
        (signals({"threshold": 1.0}), "signals.rules[0].kind"),
        (signals({"kind": "SIGNAL_KIND_ENTROPY_HIGH", "window": 3}), "signals.rules[0].window"),
        (signals({"kind": "SIGNAL_KIND_SATURATED", "threshold": 3.0}), "signals.rules[0].threshold"),
        (signals({"kind": "SIGNAL_KIND_SATURATED", "action": "SIGNAL_ACTION_NEXT_PHASE"}), "signals.rules[0].action"),
        (signals(*[{"kind": "SIGNAL_KIND_ENTROPY_HIGH"}] * 17), "signals.rules"),
    ],
)
def test_a_bad_rule_is_refused_with_its_field(given, field, client):
    with pytest.raises(InvalidRequest) as refused:
        run(client.generate(PROMPT, signals=given))
    assert [violation.field for violation in refused.value.violations] == [field]
