"""The figures of an engine, on a fake one; histograms against prometheus_client's own; spans in memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, Histogram

from adaptive.policies import Fixed, Greedy
from server.engine.engine import State
from server.engine.events import Drawn, Failed, Finished
from server.engine.inbox import QueueFull
from server.engine.request import GenerationRequest, Stopping
from server.sight.histogram import BatchHistogram
from server.sight.ledger import Entry
from server.sight.meter import Meter
from server.sight.tracing import Tracing
from tests.fakes import Harness

BOUNDS = [0.5, 1.0, 2.0]


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(0, 4) | st.sampled_from(BOUNDS))))
def test_a_batch_histogram_is_prometheus_own(batches):
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    batched = BatchHistogram("h", "help", BOUNDS, "policy", ours)
    single = Histogram("h", "help", ["policy"], registry=theirs, buckets=BOUNDS)
    for batch in batches:
        batched.add("fixed", [*batch, float("nan")])
        single.labels("fixed")
        for value in batch:
            single.labels("fixed").observe(value)
    for sample in next(iter(theirs.collect())).samples:
        if not sample.name.endswith("_created"):
            assert ours.get_sample_value(sample.name, sample.labels) == pytest.approx(sample.value)


def test_bounds_below_zero_have_no_sum():
    registry = CollectorRegistry()
    BatchHistogram("h", "help", [-1.0, 1.0], "", registry).add("", [-2.0, 0.0, 3.0])
    assert registry.get_sample_value("h_bucket", {"le": "-1.0"}) == 1
    assert registry.get_sample_value("h_bucket", {"le": "+Inf"}) == 3
    assert registry.get_sample_value("h_sum") is None


@pytest.fixture
def metered():
    """An engine on a fake model behind a meter, and what the meter's figures are."""
    registry = CollectorRegistry()
    harness = Harness(rows=2, most=1)
    meter = Meter(harness._deliver, registry)
    harness.engine._deliver, meter.engine = meter.deliver, harness.engine
    with harness:
        yield harness, meter, lambda name, **labels: registry.get_sample_value(f"thermostat_{name}", labels)


def run(harness, meter, *requests):
    for request in requests:
        meter.submit(request)
    while not all(isinstance(harness.events.get(request.id, [None])[-1], Finished | Failed) for request in requests):
        harness._arrived.get(timeout=30)


def test_every_token_is_counted_once_under_its_policy(metered):
    harness, meter, value = metered
    stopping = Stopping(max_output_tokens=5, ignore_eos=True)
    run(
        harness, meter,
        GenerationRequest("a", (1, 2), policy=Fixed(0.7), stopping=stopping),
        GenerationRequest("b", (1, 2, 3), policy=Greedy(), stopping=stopping),
    )  # fmt: skip
    assert value("generation_tokens_total") == 10
    assert value("prompt_tokens_total") == 5
    assert value("finished_total", reason="max_output_tokens") == 2
    assert value("original_entropy_nats_count", policy="fixed") == 5
    assert value("temperature_sum", policy="fixed") == pytest.approx(3.5)
    assert value("temperature_count", policy="greedy") in (None, 0)  # it has none
    assert value("entropy_change_nats_bucket", policy="greedy", le="+Inf") == 5
    assert value("inter_token_latency_seconds_count") == 8
    assert value("request_queue_time_seconds_count") == 2
    for request_id in "ab":
        meter.cancel(request_id)  # as the service does at every end
    assert value("cancelled_total") == 0
    assert value("requests_running") == value("kv_cache_tokens") == 0
    assert value("engine_up") == 1


def test_cancelled_failed_and_refused_generations_are_told_apart(metered):
    _, meter, value = metered
    endless = Stopping(max_output_tokens=60, ignore_eos=True)
    meter.submit(GenerationRequest("gone", (1,), stopping=endless))
    meter.cancel("gone")
    meter.cancel("gone")
    assert value("cancelled_total") == 1
    meter.engine = Full()
    with pytest.raises(QueueFull):
        meter.submit(GenerationRequest("refused", (1,)))
    meter.cancel("refused")
    assert value("cancelled_total") == 1
    meter.engine = Taking()
    meter.submit(GenerationRequest("fails", (1,)))
    meter.deliver([("fails", Failed("why"))])
    assert (value("failed_total", cause="fault"), value("cancelled_total")) == (1, 1)
    assert not meter._live  # nothing is kept of what is gone


class Taking:
    """An engine that takes everything and does nothing."""

    def submit(self, request):
        pass

    def release(self, request_id):
        pass

    def state(self):
        return State(True, 0, 0, 0, 0)


class Full(Taking):
    def submit(self, request):
        raise QueueFull("full")

    def cancel(self, request_id):
        pass


def test_a_pause_for_a_slow_reader_is_no_time_between_tokens(metered):
    harness, meter, value = metered
    run(harness, meter, GenerationRequest("a", (1,), stopping=Stopping(max_output_tokens=3, ignore_eos=True)))
    drawn = [event for event in harness.events["a"] if isinstance(event, Drawn)]
    assert value("inter_token_latency_seconds_count") == 2
    meter.engine = Taking()
    meter.submit(GenerationRequest("b", (1,)))
    for event in drawn:
        meter.release("b")
        meter.deliver([("b", event)])
    assert value("inter_token_latency_seconds_count") == 2


def test_scored_tokens_are_no_generated_ones(metered):
    harness, meter, value = metered
    run(harness, meter, GenerationRequest("s", tuple(range(1, 8)), scored_from=1))
    assert (value("scored_tokens_total"), value("generation_tokens_total")) == (6, 0)
    assert value("original_entropy_nats_count", policy="fixed") is None


@pytest.mark.parametrize("sent", [True, False])
def test_a_span_is_the_child_of_the_callers_if_it_told_of_one(sent):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    book = Tracing(provider)
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    entry = Entry(
        "/thermostat.v1.GenerationService/Generate", {"traceparent": f"00-{trace}-{parent}-01"} if sent else {}
    )
    book.open(entry)
    entry.code, entry.output_tokens = "INTERNAL", 7
    entry.figures["policy"] = "edt"
    book.close(entry)
    (span,) = exporter.get_finished_spans()
    assert (f"{span.context.trace_id:032x}" == trace) is sent
    assert (span.parent is not None and f"{span.parent.span_id:016x}" == parent) is sent
    assert entry.figures["trace"] == f"{span.context.trace_id:032x}"
    assert span.name == "thermostat.v1.GenerationService/Generate"
    assert span.attributes["thermostat.policy"] == "edt"
    assert span.attributes["gen_ai.usage.output_tokens"] == 7
    assert not span.status.is_ok


def test_a_step_costs_the_engine_the_same_whatever_its_tokens(metered):
    _, meter, _ = metered
    before = len(meter._noted)
    meter.deliver([(str(n), Failed("x")) for n in np.arange(1000)])
    assert len(meter._noted) == before + 1
