"""Policies as dataclasses and as words, both held against the contract."""

from dataclasses import fields

import pytest

from thermostat import (
    AdaptiveP,
    Bell,
    Edt,
    EntropyBand,
    EntropyEvent,
    EntropyFeedback,
    EntropyPolynomial,
    Fixed,
    Greedy,
    Mirostat,
    Phase,
    Phased,
    Plugin,
    Policy,
    Preset,
    Quadrant,
    TargetEntropy,
    parse_policy,
)
from thermostat.v1 import policy_pb2
from thermostat.words import format_policy

ARMS = {field.name: field for field in policy_pb2.Policy.DESCRIPTOR.oneofs_by_name["kind"].fields}
_PLAIN = (
    Fixed, Greedy, EntropyBand, Edt, TargetEntropy, EntropyFeedback, Mirostat, Quadrant, AdaptiveP, Bell,
    EntropyPolynomial,
)  # fmt: skip
CLASSES = {policy.name: policy for policy in _PLAIN}
STRUCTURED = {"phased": Phased, "plugin": Plugin, "preset": Preset}


def test_every_policy_of_the_contract_has_a_dataclass_with_its_parameters_in_order() -> None:
    declared = {name: [field.name for field in fields(policy)] for name, policy in (CLASSES | STRUCTURED).items()}
    assert declared == {name: [field.name for field in arm.message_type.fields] for name, arm in ARMS.items()}


@pytest.mark.parametrize("name", CLASSES)
def test_a_policy_without_parameters_sets_its_kind_and_nothing_else(name: str) -> None:
    message = CLASSES[name]().to_proto()
    assert message.WhichOneof("kind") == name and not getattr(message, name).ListFields()
    assert parse_policy(name) == message and format_policy(message) == name


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("fixed:temperature=0.7", Fixed(0.7)),
        (" target_entropy : target_entropy = 1.5 , max_temperature = 2 ", TargetEntropy(1.5, max_temperature=2)),
        ("entropy_band:normalizer=vocabulary,low_entropy=0", EntropyBand(0.0, normalizer="vocabulary")),
    ],
)
def test_words_and_dataclasses_make_the_same_message(text: str, policy: Policy) -> None:
    assert parse_policy(text) == policy.to_proto()
    assert parse_policy(format_policy(policy.to_proto())) == policy.to_proto()


@pytest.mark.parametrize(
    "policy",
    [
        Phased(
            [Phase(Fixed(1.2), "</think>"), Phase(Mirostat(tau=2.0), EntropyEvent(below=0.2, tokens=3)), Phase("edt")]
        ),
        Plugin("mine", {"gain": 2.0, "mode": "fast"}),
        Preset("entropix"),
    ],
)
def test_policies_with_parts_go_through_words_and_back(policy: Policy) -> None:
    assert parse_policy(format_policy(policy.to_proto())) == policy.to_proto()


def test_a_phase_says_until_when_it_lasts() -> None:
    message = Phased([Phase(Fixed(1.2), "</think>"), Phase("edt:theta=2", EntropyEvent(above=3.0)), Phase(Fixed(), 5)])
    phases = message.to_proto().phased.phases
    assert [phase.WhichOneof("until") for phase in phases] == ["marker", "entropy_event", "tokens"]
    assert phases[1].policy.edt.theta == 2.0
    assert phases[1].entropy_event.above == 3.0 and not phases[1].entropy_event.HasField("tokens")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no policy is named ''; there are fixed, greedy"),
        ("warm", "no policy is named 'warm'"),
        ("greedy:temperature=1", "policy greedy: no parameter is named 'temperature'; it takes none"),
        ("edt:thta=1", "policy edt: no parameter is named 'thta'; it takes base_temperature, theta"),
        ("edt:theta=much", "policy edt: theta must be a number, not 'much'"),
        ("edt:theta=1,theta=2", "policy edt: parameter theta is given twice"),
        ("edt:theta", "policy edt: expected parameter=value, not 'theta'"),
        ("edt:", "policy edt: expected parameter=value, not ''"),
        ("entropy_band:normalizer=bits", "normalizer must be one of nats, vocabulary, possible, not 'bits'"),
        ("entropy_band:normalizer=unspecified", "normalizer must be one of nats"),
    ],
)
def test_errors_name_what_is_wrong_and_what_is_allowed(text: str, told: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are compared below
        parse_policy(text)
    assert told in str(caught.value)


def test_a_dataclass_with_a_wrong_value_is_refused_in_the_same_words() -> None:
    with pytest.raises(ValueError, match="normalizer must be one of nats"):
        EntropyBand(normalizer="bits").to_proto()
