"""The synchronous client against a real gRPC server with canned answers."""

import gc
import threading
import time
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from tests.clients.fake_server import TEXT, TOKENS, Failure, FakeServer
from thermostat import (
    Cancelled,
    Client,
    DeadlineExceeded,
    FieldViolation,
    Finished,
    InvalidRequest,
    ModelNotFound,
    Output,
    Overloaded,
    ServerFault,
    Started,
    TargetEntropy,
    Unavailable,
)
from thermostat.request import GenerateOptions
from thermostat.v1.generation_pb2 import Filters, GenerateRequest, ResponseOptions, Stopping

PROMPTLY = 2.0  # seconds; a cancel takes milliseconds


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.target) as client:
        yield client


def test_a_generation_is_started_outputs_finished_and_unknown_events_are_skipped(client: Client) -> None:
    events = list(client.generate("def "))
    assert isinstance(events[0], Started) and isinstance(events[-1], Finished)
    assert all(isinstance(event, Output) for event in events[1:-1]) and len(events) == len(TOKENS) + 2


def test_every_option_reaches_the_server(client: Client, server: FakeServer) -> None:
    list(
        client.generate(
            "def ", model="fake", policy=TargetEntropy(1.5), seed=2**64 - 1, top_k=5, top_p=0.95, min_p=0.1,
            max_output_tokens=3, min_output_tokens=1, stop_sequences=["\n", "x"], stop_token_ids=[4, 5],
            ignore_eos=True, time_limit=1.5, sampling_info=False, candidates=2, max_tokens_per_message=4,
        )
    )  # fmt: skip
    expected = GenerateRequest(
        model="fake", text="def ", seed=2**64 - 1, policy=TargetEntropy(1.5).to_proto(),
        filters=Filters(top_k=5, top_p=0.95, min_p=0.1),
        stopping=Stopping(max_output_tokens=3, min_output_tokens=1, stop_sequences=["\n", "x"], stop_token_ids=[4, 5],
                          ignore_eos=True, time_limit=Duration(seconds=1, nanos=500_000_000)),
        response_options=ResponseOptions(sampling_info=False, candidates=2, max_tokens_per_message=4),
    )  # fmt: skip
    assert server.requests == [expected]


def test_what_is_not_given_stays_unset(client: Client, server: FakeServer) -> None:
    list(client.generate("def ", seed=None))
    assert server.requests == [GenerateRequest(text="def ")]


def test_the_options_are_the_fields_of_the_contract() -> None:
    fields = {field.name for field in GenerateRequest.DESCRIPTOR.fields}
    fields -= {"text", "token_ids", "chat", "filters", "stopping", "response_options"}
    for part in (Filters, Stopping, ResponseOptions):
        fields |= {field.name for field in part.DESCRIPTOR.fields}
    assert set(GenerateOptions.__annotations__) == fields | {"add_generation_prompt"}


def test_an_unknown_option_is_a_type_error_that_lists_the_options(client: Client) -> None:
    with pytest.raises(TypeError, match=r"'temperature'.*top_p"):
        client.generate("def ", temperature=1)  # type: ignore[call-arg]


def test_one_stop_sequence_may_stand_without_a_list(client: Client, server: FakeServer) -> None:
    list(client.generate("def ", stop_sequences="stop"))
    assert server.requests[0].stopping.stop_sequences == ["stop"]


def test_prompts_are_text_token_ids_or_a_chat(client: Client, server: FakeServer) -> None:
    list(client.generate([1, 2]))
    list(client.generate([{"role": "user", "content": "Hi"}], add_generation_prompt=False))
    assert list(server.requests[0].token_ids.ids) == [1, 2]
    assert server.requests[1].chat.messages[0].content == "Hi"
    assert server.requests[1].chat.add_generation_prompt is False
    with pytest.raises(TypeError, match="bytes"):
        client.generate(b"def ")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="chat only"):
        client.generate("def ", add_generation_prompt=True)


def test_text_is_the_whole_text(client: Client) -> None:
    assert client.text("def ") == TEXT


def test_break_cancels_the_call(client: Client, server: FakeServer) -> None:
    server.endless = True
    for event in client.generate("def "):
        if isinstance(event, Output):
            break
    assert server.cancelled.wait(PROMPTLY)


def test_break_cancels_the_call_even_if_the_generation_is_still_referred_to(client: Client, server: FakeServer) -> None:
    server.endless = True
    generation = client.generate("def ")
    for event in generation:
        if isinstance(event, Output):
            break
    assert server.cancelled.wait(PROMPTLY)
    with pytest.raises(Cancelled):
        list(generation)


def test_an_exception_in_the_loop_cancels_the_call(client: Client, server: FakeServer) -> None:
    server.endless = True
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the loop is what is tested
        for _ in client.generate("def "):
            raise ZeroDivisionError
    assert server.cancelled.wait(PROMPTLY)


def test_the_end_of_a_with_block_cancels_the_call(client: Client, server: FakeServer) -> None:
    server.endless = True
    with client.generate("def ") as generation:
        next(generation)
    assert server.cancelled.wait(PROMPTLY)


def test_dropping_the_last_reference_cancels_the_call(client: Client, server: FakeServer) -> None:
    server.endless = True
    generation = client.generate("def ")
    next(generation)
    del generation
    gc.collect()
    assert server.cancelled.wait(PROMPTLY)


def test_cancel_from_another_thread_ends_the_loop_with_cancelled(client: Client, server: FakeServer) -> None:
    server.endless = True
    generation = client.generate("def ")
    next(generation)
    threading.Timer(0.05, generation.cancel).start()
    with pytest.raises(Cancelled):
        list(generation)
    assert server.cancelled.wait(PROMPTLY)


def test_a_timeout_is_deadline_exceeded(client: Client, server: FakeServer) -> None:
    server.endless = True
    with pytest.raises(DeadlineExceeded):
        list(client.generate("def ", timeout=0.1))


def test_unavailable_before_the_first_token_is_tried_again(client: Client, server: FakeServer) -> None:
    server.failures = [Failure(grpc.StatusCode.UNAVAILABLE, "loading")]
    assert len(list(client.generate("def "))) == len(TOKENS) + 2
    assert len(server.requests) == 2


def test_a_stream_that_breaks_is_taken_up_with_what_was_seen_of_it(client: Client, server: FakeServer) -> None:
    server.failures = [Failure(grpc.StatusCode.UNAVAILABLE, "draining", after=3)]
    events = list(client.generate("def ", seed=3))
    seen = [token for event in events if isinstance(event, Output) for token in event.tokens]
    first, second = server.requests
    count = len(second.resume.token_ids)
    assert count > 0
    assert list(second.resume.token_ids) == [token.token_id for token in seen[:count]]
    assert list(second.resume.recent_entropy) == [token.sampling_info.original_entropy for token in seen[:count]]
    assert (first.text, first.seed, second.text, second.seed) == ("def ", 3, "def ", events[0].seed)
    assert sum(isinstance(event, Started) for event in events) == 1


def test_taking_up_a_stream_can_be_switched_off(server: FakeServer) -> None:
    server.failures = [Failure(grpc.StatusCode.UNAVAILABLE, "draining", after=3)]
    with Client(server.target, resume_seconds=0) as client, pytest.raises(Unavailable, match="draining"):
        list(client.generate("def "))
    assert len(server.requests) == 1


def test_every_violation_is_told(client: Client, server: FakeServer) -> None:
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="filters.top_p", description="must be above 0 and at most 1")
    bad.field_violations.add(field="policy.edt.base", description="must be above 0")
    server.failures = [Failure(grpc.StatusCode.INVALID_ARGUMENT, "two fields are wrong", (bad,))]
    with pytest.raises(InvalidRequest) as caught:
        list(client.generate("def "))
    assert caught.value.violations == [
        FieldViolation("filters.top_p", "must be above 0 and at most 1"),
        FieldViolation("policy.edt.base", "must be above 0"),
    ]
    assert "policy.edt.base: must be above 0" in str(caught.value)


def test_overloaded_says_when_to_come_back(client: Client, server: FakeServer) -> None:
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000))
    info = error_details_pb2.ErrorInfo(reason="QUEUE_FULL", metadata={"queue": "4"})
    server.failures = [Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", (info, retry))]
    with pytest.raises(Overloaded) as caught:
        list(client.generate("def "))
    assert (caught.value.retry_after, caught.value.reason, caught.value.metadata) == (
        1.5, "QUEUE_FULL", {"queue": "4"},
    )  # fmt: skip


def test_a_server_fault_has_an_incident(client: Client, server: FakeServer) -> None:
    info = error_details_pb2.ErrorInfo(reason="INTERNAL", metadata={"incident": "c0ffee"})
    server.failures = [Failure(grpc.StatusCode.INTERNAL, "a fault of the server", (info,), after=1)]
    with pytest.raises(ServerFault) as caught:
        list(client.generate("def "))
    assert caught.value.incident == "c0ffee" and caught.value.code is grpc.StatusCode.INTERNAL


def test_questions_about_the_model(client: Client) -> None:
    assert client.model().name == "fake"
    assert [policy.name for policy in client.policies()] == ["fixed", "entropy_band", "greedy"]
    assert client.count_tokens("def ").token_count == 4
    with pytest.raises(ModelNotFound, match="fake is"):
        client.model("other")


def test_wait_ready_returns_when_the_server_starts_to_serve(client: Client, server: FakeServer) -> None:
    server.set_serving(False)
    with pytest.raises(Unavailable, match="not ready"):
        client.wait_ready(0.1)
    threading.Timer(0.1, server.set_serving, [True]).start()
    begun = time.monotonic()
    client.wait_ready(10)
    assert 0.05 < time.monotonic() - begun < PROMPTLY


def test_no_server_is_unavailable() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(Unavailable):
        client.model()
