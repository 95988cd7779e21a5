"""Generate over a real socket: the order of events, every field of the request, errors, cancellation, discovery."""

import time

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from adaptive import POLICIES
from thermostat import (
    Client,
    DeadlineExceeded,
    Finished,
    Fixed,
    Greedy,
    InvalidRequest,
    ModelNotFound,
    Output,
    Started,
    TargetEntropy,
)
from thermostat.v1 import generation_pb2 as pb


def tokens(events):
    return [token for event in events if isinstance(event, Output) for token in event.tokens]


def text(events):
    return "".join(event.text_delta for event in events if isinstance(event, Output))


def test_one_started_then_outputs_then_one_finished(client):
    events = list(client.generate("def read(", policy=TargetEntropy(1.2), max_output_tokens=20, ignore_eos=True))
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert all(isinstance(event, Output) for event in events[1:-1])
    started, finished = events[0], events[-1]
    assert started.policy.target_entropy.target_entropy == 1.2
    assert started.policy.target_entropy.max_temperature == 2.0  # the default, filled in
    assert started.model == "embedded"
    assert started.prompt_tokens == finished.usage.prompt_tokens == client.count_tokens("def read(").token_count
    assert finished.usage.output_tokens == len(tokens(events)) == 20
    assert finished.reason == pb.FINISH_REASON_MAX_OUTPUT_TOKENS
    assert [token.index for token in tokens(events)] == list(range(20))
    assert b"".join(token.token_bytes for token in tokens(events)).decode() == text(events)
    entropies = [token.sampling_info.original_entropy for token in tokens(events)]
    summary = finished.summary
    assert summary.original_entropy.mean == pytest.approx(sum(entropies) / 20, abs=1e-5)
    assert summary.original_entropy.p50 == pytest.approx(sorted(entropies)[9], abs=1e-5)
    assert summary.perplexity > 1
    assert finished.timing.mean_gap.ToNanoseconds() > 0


def test_a_seed_that_was_picked_gives_the_same_tokens_again(client):
    events = list(client.generate("import ", max_output_tokens=12, ignore_eos=True))
    again = list(client.generate("import ", max_output_tokens=12, ignore_eos=True, seed=events[0].seed))
    assert [t.token_id for t in tokens(events)] == [t.token_id for t in tokens(again)]
    other = list(client.generate("import ", max_output_tokens=12, ignore_eos=True, seed=events[0].seed + 1))
    assert [t.token_id for t in tokens(events)] != [t.token_id for t in tokens(other)]


def test_text_token_ids_and_chat(client):
    ids = [token.token_id for token in tokens(client.generate("import os", policy=Greedy(), max_output_tokens=1))]
    assert tokens(client.generate(ids, policy=Greedy(), max_output_tokens=3))
    chat = [{"role": "user", "content": "write a parser"}]
    events = list(client.generate(chat, policy=Greedy(), max_output_tokens=4))
    laid_out = "# user: write a parser\n# assistant:\n"
    assert events[0].prompt_tokens == client.count_tokens(chat).token_count
    assert events[0].prompt_tokens == client.count_tokens(laid_out).token_count
    assert text(events) == text(client.generate(laid_out, policy=Greedy(), max_output_tokens=4))


def test_a_stop_sequence_ends_the_text_before_it(client):
    whole = text(client.generate("def read(", seed=3, max_output_tokens=60, ignore_eos=True))
    stop = whole[25:31]
    events = list(client.generate("def read(", seed=3, max_output_tokens=60, ignore_eos=True, stop_sequences=[stop]))
    assert text(events) == whole[: whole.index(stop)]
    assert events[-1].reason == pb.FINISH_REASON_STOP_SEQUENCE
    assert events[-1].stop_sequence == stop


def test_stop_tokens_minimum_and_time_limit(client):
    drawn = [t.token_id for t in tokens(client.generate("def read(", seed=3, max_output_tokens=9))]
    events = list(client.generate("def read(", seed=3, max_output_tokens=9, stop_token_ids=[drawn[4]]))
    first = drawn.index(drawn[4])
    assert (events[-1].reason, events[-1].stop_token_id) == (pb.FINISH_REASON_STOP_TOKEN, drawn[4])
    assert len(tokens(events)) == first + 1
    events = list(client.generate("def read(", seed=3, max_output_tokens=9, min_output_tokens=8, stop_token_ids=drawn))
    assert len(tokens(events)) >= 9
    events = list(client.generate("def ", max_output_tokens=2000, ignore_eos=True, time_limit=0.3))
    assert events[-1].reason == pb.FINISH_REASON_TIME_LIMIT
    assert 0 < len(tokens(events)) < 2000


def test_the_context_ends_a_generation(client):
    length = client.model().context_length
    events = list(client.generate([5] * (length - 7), max_output_tokens=100, ignore_eos=True))
    assert events[0].max_output_tokens == 7
    assert (events[-1].reason, len(tokens(events))) == (pb.FINISH_REASON_CONTEXT_LENGTH, 7)


def test_a_prompt_that_begins_as_another_did_is_told_how_much_was_there(client):
    prompt = [1234, *range(1, 200)]
    first, *_, end = client.generate(prompt, max_output_tokens=2, seed=1)
    again, *_, same = client.generate(prompt, max_output_tokens=2, seed=1)
    assert (first.cached_tokens, again.cached_tokens) == (0, 192)
    assert end.resume == same.resume


def test_what_the_stream_carries(client):
    plain = list(client.generate("def ", seed=1, max_output_tokens=20, ignore_eos=True))
    events = list(
        client.generate(
            "def ", seed=1, max_output_tokens=20, ignore_eos=True, sampling_info=False, max_tokens_per_message=8
        )
    )
    assert [len(event.tokens) for event in events[1:-1]] == [8, 8, 4]
    assert not any(token.HasField("sampling_info") for token in tokens(events))
    assert [t.token_id for t in tokens(events)] == [t.token_id for t in tokens(plain)]
    assert text(events) == text(plain)


def test_every_violation_is_named_at_once(client):
    with pytest.raises(InvalidRequest) as raised:
        list(
            client.generate(
                [5, 99_999],
                policy=Fixed(0.0),
                top_k=0,
                top_p=1.5,
                min_p=-1.0,
                max_output_tokens=0,
                min_output_tokens=5,
                stop_sequences=["", "x" * 300],
                stop_token_ids=[-1],
                time_limit=-1.0,
                candidates=21,
                max_tokens_per_message=0,
            )
        )
    assert {violation.field for violation in raised.value.violations} == {
        "policy.fixed.temperature",
        "filters.top_k",
        "filters.top_p",
        "filters.min_p",
        "stopping.max_output_tokens",
        "stopping.min_output_tokens",
        "stopping.stop_sequences[0]",
        "stopping.stop_sequences[1]",
        "stopping.stop_token_ids[0]",
        "stopping.time_limit",
        "response_options.candidates",
        "response_options.max_tokens_per_message",
        "token_ids.ids[1]",
    }


@pytest.mark.parametrize(
    ("prompt", "field"),
    [("", "text"), ([], "token_ids"), ([{"role": "user", "content": ""}], "chat.messages"), ([1] * 2048, "token_ids")],
)
def test_a_prompt_that_cannot_be_continued_is_refused(prompt, field, client):
    with pytest.raises(InvalidRequest) as raised:
        list(client.generate(prompt))
    assert [violation.field for violation in raised.value.violations] == [field]


def test_a_huge_prompt_is_refused_quickly(client):
    begin = time.monotonic()
    with pytest.raises(InvalidRequest, match="too long"):
        list(client.generate("x" * 3_000_000))
    assert time.monotonic() - begin < 2


def test_another_model_is_not_found(client):
    with pytest.raises(ModelNotFound, match="gpt-9"):
        list(client.generate("def ", model="gpt-9"))


def test_a_deadline_is_an_error_and_frees_the_row(client):
    with pytest.raises(DeadlineExceeded):
        list(client.generate("def ", max_output_tokens=2000, ignore_eos=True, timeout=0.3))
    assert tokens(client.generate("def ", max_output_tokens=3))


def test_every_policy_is_listed_as_it_is_declared(client):
    listed = {policy.name: policy for policy in client.policies()}
    arms = [field.name for field in pb.GenerateRequest().policy.DESCRIPTOR.fields]
    assert [*listed, "plugin", "preset"] == [*POLICIES, "plugin", "preset"] == arms
    for name, kind in POLICIES.items():
        assert [value.name for value in listed[name].state] == [value.name for value in kind.state]
        if name == "phased":  # its one parameter is a structure
            continue
        declared = [parameter.name for parameter in kind.parameters()]
        assert [parameter.name for parameter in listed[name].parameters] == declared
        arm = pb.GenerateRequest().policy.DESCRIPTOR.fields_by_name[name].message_type
        assert [field.name for field in arm.fields] == declared
    temperature = listed["fixed"].parameters[0]
    assert (temperature.number, temperature.minimum, temperature.minimum_excluded) == (1.0, 0.0, True)


def test_the_model_is_described(client):
    model = client.model()
    assert (model.name, model.vocab_size, model.dtype, model.device) == ("embedded", 4096, "float32", "cpu")
    assert model.parameters == 7_705_408
    assert model.has_chat_template
    assert list(model.eos_token_ids) == [0]


def test_health_and_reflection_are_the_standard_ones(address):
    with Client(address) as client:
        client.wait_ready(5)
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {
            "thermostat.v1.GenerationService",
            "thermostat.v1.ModelService",
            "grpc.health.v1.Health",
        } <= set(database.get_services())
        found = database.FindFileContainingSymbol("thermostat.v1.GenerationService")
        assert isinstance(found, FileDescriptorProto)
