"""Random requests: each is served, or refused with exactly the fields that are wrong."""

import math

import grpc
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from adaptive import POLICIES, Filters, Penalties
from adaptive.parameters import Parameter
from thermostat import InvalidRequest
from thermostat.errors import error_from
from thermostat.v1 import generation_pb2 as pb
from thermostat.v1 import generation_pb2_grpc
from thermostat.v1.policy_pb2 import Policy

VOCAB = 4096
PROMPTS = [
    ({"text": "def "}, None),
    ({"token_ids": pb.TokenIds(ids=[5, 6])}, None),
    ({"text": ""}, "text"),
    ({}, "input"),
    ({"token_ids": pb.TokenIds(ids=[5, -1])}, "token_ids.ids[1]"),
    ({"chat": pb.Chat()}, "chat.messages"),
]
BAD_NUMBERS = (math.nan, math.inf, -math.inf)


def outside(parameter: Parameter) -> list:
    """Values that a parameter does not allow but its field can hold."""
    if parameter.flag:
        return []
    if parameter.choices:
        return [77]
    values = [] if parameter.integer else list(BAD_NUMBERS)
    if parameter.minimum is not None:
        values.append(parameter.minimum if parameter.minimum_excluded else parameter.minimum - 1)
    if parameter.maximum is not None:
        values.append(parameter.maximum if parameter.maximum_excluded else parameter.maximum + 1)
    return [int(value) for value in values] if parameter.integer else values


def inside(parameter: Parameter) -> list:
    """Values that a parameter allows: its bounds, its default, and between."""
    if parameter.flag:
        return [True, False]
    if parameter.choices:
        return list(range(len(parameter.choices) + 1))
    low = 0.0 if parameter.minimum is None else parameter.minimum
    values = [low, low + 0.01, low + 0.5, low + 3, parameter.default, parameter.maximum]
    found = [value for value in values if value is not None]
    found = [int(value) for value in found] if parameter.integer else [float(value) for value in found]
    return [value for value in found if parameter.accepts(value)]


def alone(declared) -> list[Parameter]:
    """The parameters that stand alone: a value in range can be in conflict with no other."""
    return [p for p in declared.parameters() if not any(word in p.name for word in ("variant", "xtc_t", "dry_"))]


@st.composite
def policies(draw, bad):
    """(a message, the fields that are wrong with it). One wrong value at most: conflicts are only looked at without."""
    kinds = {name: kind for name, kind in POLICIES.items() if name != "phased"}
    name = draw(st.sampled_from(sorted(kinds)))
    message = Policy()
    arm = getattr(message, name)
    arm.SetInParent()
    parameters = list(kinds[name].parameters())
    wrong = draw(st.sampled_from(parameters)) if parameters and bad and draw(st.booleans()) else None
    if wrong is not None and (values := outside(wrong)):
        setattr(arm, wrong.name, draw(st.sampled_from(values)))
        return message, [f"policy.{name}.{wrong.name}"]
    for parameter in parameters:
        # Bounds that depend on one another stay at their defaults, of which every in-range value of the rest is free.
        if not parameter.name.startswith(("min_t", "max_t", "low_e", "high_e", "low_v", "high_v", "norm")) and draw(
            st.booleans()
        ):
            setattr(arm, parameter.name, draw(st.sampled_from(inside(parameter))))
    return message, []


@st.composite
def declared(draw, kind, message, path, bad):
    """(a message of filters or penalties, the fields that are wrong with it)."""
    wrong = []
    for parameter in alone(kind):
        choice = draw(st.sampled_from(["unset", "inside"] + ["outside"] * bad))
        values = {"inside": inside(parameter), "outside": outside(parameter)}.get(choice, [])
        if values:
            setattr(message, parameter.name, draw(st.sampled_from(values)))
            wrong += [f"{path}.{parameter.name}"] if choice == "outside" else []
    return message, wrong


def stopping(draw, bad):
    """(Stopping, the fields that are wrong with it)."""
    message = pb.Stopping(max_output_tokens=3)
    options = [
        (lambda: None, None),
        (lambda: setattr(message, "max_output_tokens", 0), "stopping.max_output_tokens"),
        (lambda: setattr(message, "min_output_tokens", 4), "stopping.min_output_tokens"),
        (lambda: message.stop_sequences.append(""), "stopping.stop_sequences[0]"),
        (lambda: message.stop_sequences.extend(["x"] * 17), "stopping.stop_sequences"),
        (lambda: message.stop_token_ids.append(VOCAB), f"stopping.stop_token_ids[{len(message.stop_token_ids)}]"),
        (lambda: message.time_limit.FromNanoseconds(-1), "stopping.time_limit"),
    ]
    change, field = draw(st.sampled_from(options if bad else options[:1]))
    change()
    return message, [field] if field else []


@st.composite
def requests(draw):
    """(a GenerateRequest, the fields that are wrong with it)."""
    bad = draw(st.booleans())
    policy, wrong = draw(policies(bad))
    filters, wrong_filters = draw(declared(Filters, pb.Filters(), "filters", bad))
    penalties, wrong_penalties = draw(declared(Penalties, pb.Penalties(), "penalties", bad))
    ends, wrong_ends = stopping(draw, bad)
    request = pb.GenerateRequest(policy=policy, filters=filters, penalties=penalties, stopping=ends)
    wrong = wrong + wrong_filters + wrong_penalties + wrong_ends
    prompt, field = draw(st.sampled_from(PROMPTS if bad else PROMPTS[:2]))
    request.MergeFrom(pb.GenerateRequest(**prompt))
    wrong += [field] if field else []
    biases = [{}, {7: -100.0, 8: 5.0}, {VOCAB: 1.0}, {7: 101.0}, {7: math.nan}]
    bias = draw(st.sampled_from(biases if bad else biases[:2]))
    request.logit_bias.update(bias)
    wrong += [f"logit_bias[{token}]" for token, value in bias.items() if token >= VOCAB or not abs(value) <= 100]
    if draw(st.booleans()):
        request.response_options.candidates = draw(st.sampled_from([0, 20] + [21, -1] * bad))
        wrong += ["response_options.candidates"] if request.response_options.candidates in (21, -1) else []
    if draw(st.booleans()):
        request.seed = draw(st.integers(0, 2**64 - 1))
    return request, wrong


@pytest.fixture(scope="module")
def stub(address):
    with grpc.insecure_channel(address) as channel:
        yield generation_pb2_grpc.GenerationServiceStub(channel)


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(requests())
def test_each_request_is_served_or_refused_with_the_right_fields(stub, asked):
    request, wrong = asked
    try:
        events = list(stub.Generate(request, timeout=60))
    except grpc.RpcError as raised:
        events, refused = [], error_from(raised)
    if events:
        event("served")
        assert wrong == []
        assert events[0].HasField("started")
        assert events[-1].HasField("finished")
        assert 1 <= events[-1].finished.usage.output_tokens <= 3
    else:
        event("refused")
        assert isinstance(refused, InvalidRequest), refused
        assert {violation.field for violation in refused.violations} == set(wrong)
        assert all(violation.description for violation in refused.violations)
