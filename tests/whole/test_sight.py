"""What an operator sees of a real server process: metrics, the dashboard's queries, log lines, traces, the commands."""

import json
import re
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from tests.whole.conftest import ROOT, process
from tests.whole.test_access import eventually
from thermostat import Client, EntropyBand, Finished, Greedy, InvalidRequest, Output, TargetEntropy
from thermostat.cli import main

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """A collector of spans, on a socket of its own."""

    def __init__(self):
        self.spans = []

    def Export(self, request, context):
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()


class MetricsCollector(metrics_service_pb2_grpc.MetricsServiceServicer):
    """A collector of metrics: the newest points of each, by name."""

    def __init__(self):
        self.points = {}

    def Export(self, request, context):
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    kind = metric.WhichOneof("data")
                    self.points[metric.name] = kind, list(getattr(metric, kind).data_points)
        return metrics_service_pb2.ExportMetricsServiceResponse()


@dataclass
class Seen:
    """A server with everything on, and where its figures, lines and spans are."""

    address: str
    url: str
    log: Path
    collector: Collector
    metrics: MetricsCollector

    def values(self) -> dict[tuple, float]:
        text = urllib.request.urlopen(self.url).read().decode()
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def lines(self) -> list[dict]:
        found = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in found if line["logger"] == "thermostat.requests"]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    collector, metrics = Collector(), MetricsCollector()
    receiver = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, receiver)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(metrics, receiver)
    port = receiver.add_insecure_port("127.0.0.1:0")
    receiver.start()
    log = tmp_path_factory.mktemp("sight") / "log"
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "OTEL_METRIC_EXPORT_INTERVAL": "300",
        "THERMOSTAT_TRACING": "1",
        "THERMOSTAT_OTLP_METRICS": "1",
        "THERMOSTAT_LOG_FORMAT": "json",
    }
    with process("--metrics-port", "0", "--max-rows", "4", log=log, **variables) as (running, address):
        url = running.stdout.readline().removeprefix("metrics on ").strip()
        yield Seen(address, url, log, collector, metrics)
    receiver.stop(0)


def test_the_metrics_are_the_sums_of_what_the_clients_saw(seen):
    before = seen.values()

    def grown(name: str, **labels: str) -> float:
        key = (f"thermostat_{name}", *sorted(labels.items()))
        return seen.values()[key] - before.get(key, 0.0)

    with Client(seen.address) as client:
        events = list(client.generate("def ", policy=TargetEntropy(1.5), seed=1, max_output_tokens=40, ignore_eos=True))
        list(client.generate("def ", policy=Greedy(), max_output_tokens=5, ignore_eos=True))
        with pytest.raises(InvalidRequest):
            list(client.generate("def ", top_p=7.0))
        for _ in client.generate("def ", max_output_tokens=1500, ignore_eos=True):
            break
        assert eventually(lambda: grown("cancelled_total") == 1)
    infos = [token.sampling_info for event in events if isinstance(event, Output) for token in event.tokens]

    target = {"policy": "target_entropy"}
    for metric, field in (("original_entropy_nats", "original_entropy"), ("temperature", "temperature")):
        values = [getattr(info, field) for info in infos]
        assert grown(f"{metric}_count", **target) == len(values) == 40
        assert grown(f"{metric}_sum", **target) == pytest.approx(sum(values), rel=1e-5)
        assert grown(f"{metric}_bucket", le="1.0", **target) == sum(value <= 1.0 for value in values)
    changes = [info.entropy_change for info in infos]
    assert grown("entropy_change_nats_bucket", le="-0.5", **target) == sum(value <= -0.5 for value in changes)
    assert grown("saturated_tokens_total", **target) == sum(info.saturated for info in infos)
    assert grown("finished_total", reason="max_output_tokens") == 2
    assert grown("rpcs_total", method="Generate", code="OK") == 2
    assert grown("rpcs_total", method="Generate", code="INVALID_ARGUMENT") == 1
    assert grown("rpcs_total", method="Generate", code="CANCELLED") == 1
    assert grown("time_to_first_token_seconds_count") == 3
    assert grown("request_queue_time_seconds_count") == 3
    assert grown("inter_token_latency_seconds_count") >= 39 + 4
    for gauge in ("requests_running", "requests_waiting", "kv_cache_tokens", "rpcs_open"):
        assert eventually(lambda name=gauge: seen.values()[(f"thermostat_{name}",)] == 0)
    assert seen.values()[("thermostat_rows",)] == 4


def test_running_and_waiting_streams_and_their_memory_are_seen(seen):
    with Client(seen.address) as client:
        streams = [client.generate("def ", max_output_tokens=1500, ignore_eos=True) for _ in range(6)]
        assert eventually(
            lambda: (
                (seen.values()[("thermostat_requests_running",)], seen.values()[("thermostat_requests_waiting",)])
                == (4, 2)
            )
        )
        assert seen.values()[("thermostat_kv_cache_tokens",)] > 4 * 1500
        for stream in streams:
            stream.cancel()


def test_signals_and_scored_tokens_are_counted(seen):
    before = seen.values()
    with Client(seen.address) as client:
        events = list(client.generate("def ", max_output_tokens=30, ignore_eos=True, signals="strict", top_k=2))
        raised = [s for event in events if isinstance(event, Output) for t in event.tokens for s in t.signals]
        scored = list(client.score("import os"))
    assert raised and isinstance(scored[-1], Finished)
    after = seen.values()
    counted = sum(value - before.get(key, 0.0) for key, value in after.items() if key[0] == "thermostat_signals_total")
    assert counted == len(raised)
    key = ("thermostat_scored_tokens_total",)
    assert after[key] - before[key] == scored[-1].usage.output_tokens


def test_the_dashboard_asks_only_for_what_is_exported(seen):
    with Client(seen.address) as client:  # some series exist only once they were counted
        list(client.generate("def ", policy=EntropyBand(), max_output_tokens=30, signals="strict", top_k=2))
    exported = {name for name, *_ in seen.values()}
    dashboard = json.loads((ROOT / "deploy/grafana.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    queries += [variable["definition"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
    asked = {name for query in queries for name in re.findall(r"\b(?:thermostat|process)_\w+", query)}
    assert asked <= exported
    # Whatever of ours is exported is shown, but for what says the same: constants, and how long calls took.
    ours = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in exported if name.startswith("thermostat_")}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    unshown = {"model_info", "steps_total", "rpcs_open", "request_duration_seconds"}
    assert ours - shown - {name for name in ours if f"{name}_total" in ours} == {f"thermostat_{n}" for n in unshown}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert all(query.count("(") == query.count(")") and query.count("{") == query.count("}") for query in queries)


def test_the_operators_page_names_every_metric_and_no_other(seen):
    page = (ROOT / "docs/operations.md").read_text()
    table = page[page.index("| name | labels |") : page.index("`entropy_change_nats` has no sum")]
    named = {name for row in table.splitlines()[2:] if row for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    text = urllib.request.urlopen(seen.url).read().decode()
    families = {family.name for family in text_string_to_metric_families(text)}
    ours = {name.removeprefix("thermostat_") for name in families if name.startswith("thermostat_")}
    ours = {name for name in ours if not name.endswith("_created")}
    assert {re.sub("_(total|info)$", "", name) for name in named} == {
        re.sub("_(total|info)$", "", name) for name in ours
    }


def test_every_call_is_one_line_that_tells_what_came_of_it(seen):
    before = len(seen.lines())
    with Client(seen.address) as client:
        events = list(client.generate("def ", policy=TargetEntropy(1.5), max_output_tokens=4, ignore_eos=True))
        with pytest.raises(InvalidRequest):
            client.count_tokens("")
        client.model()
    assert eventually(lambda: len(seen.lines()) == before + 3)
    first, second, third = seen.lines()[before:]
    assert (first["method"], first["code"], first["policy"]) == ("Generate", "OK", "target_entropy")
    assert first["generation"] == events[0].generation_id
    assert (first["prompt_tokens"], first["output_tokens"]) == (events[0].prompt_tokens, 4)
    assert first["reason"] == "max_output_tokens"
    assert first["mean_original_entropy"] == pytest.approx(events[-1].summary.original_entropy.mean, abs=1e-5)
    assert 0 < first["first_token_seconds"] <= first["seconds"]
    assert (second["method"], second["code"]) == ("CountTokens", "INVALID_ARGUMENT")
    assert (third["method"], third["code"]) == ("GetModel", "OK")


def test_the_metrics_by_opentelemetry_are_those_that_prometheus_reads(seen):
    with Client(seen.address) as client:
        list(client.generate("def ", policy=Greedy(), max_output_tokens=5, ignore_eos=True))
    read = seen.values()
    drawn = read[("thermostat_generation_tokens_total",)]

    def value(name, **labels):
        _, points = seen.metrics.points[f"thermostat_{name}"]
        told = {tuple((each.key, each.value.string_value) for each in point.attributes): point for point in points}
        return told[tuple(labels.items())]

    assert eventually(lambda: value("generation_tokens").as_double == drawn)
    assert seen.metrics.points["thermostat_generation_tokens"][0] == "sum"
    assert value("rows").as_double == 4
    histogram = value("original_entropy_nats", policy="greedy")
    name, label = "thermostat_original_entropy_nats", ("policy", "greedy")
    assert histogram.count == sum(histogram.bucket_counts) == read[(f"{name}_count", label)]
    assert histogram.sum == pytest.approx(read[(f"{name}_sum", label)])
    below = sum(histogram.bucket_counts[: list(histogram.explicit_bounds).index(1.0) + 1])
    assert below == read[(f"{name}_bucket", ("le", "1.0"), label)]
    assert not value("entropy_change_nats", policy="greedy").HasField("sum")


def test_a_span_of_the_callers_trace_reaches_the_collector(seen):
    with Client(seen.address, metadata=[("traceparent", f"00-{TRACE}-{PARENT}-01")]) as client:
        list(client.generate("def ", max_output_tokens=3, ignore_eos=True))
    assert eventually(lambda: any(span.trace_id.hex() == TRACE for span in seen.collector.spans))
    (span,) = [span for span in seen.collector.spans if span.trace_id.hex() == TRACE]
    assert span.parent_span_id.hex() == PARENT
    assert span.name == "thermostat.v1.GenerationService/Generate"
    attributes = {each.key: each.value for each in span.attributes}
    assert attributes["rpc.response.status_code"].string_value == "OK"
    assert attributes["gen_ai.usage.output_tokens"].int_value == 3
    assert any(line.get("trace") == TRACE for line in seen.lines())


def test_top_shows_streams_speed_entropy_and_temperature_by_policy(seen):
    with Client(seen.address) as client:
        stream = client.generate("def ", policy=TargetEntropy(1.5), max_output_tokens=1800, ignore_eos=True)
        next(stream)
        shown = CliRunner().invoke(main, ["top", seen.url, "--every", "0.6", "--count", "2"])
        stream.cancel()
    assert shown.exit_code == 0, shown.output
    assert "embedded (float32, cpu) up" in shown.output
    assert re.search(r"streams +1 of 4", shown.output)
    speed = re.search(r"tokens/s +([\d.]+)", shown.output)
    assert float(speed[1]) > 5
    row = re.search(r"target_entropy +([\d.]+) +([\d.]+) +([\d.]+) +[+-][\d.]+ +([\d.]+) +\d+%", shown.output)
    assert float(row[1]) > 5 and abs(float(row[3]) - 1.5) < 0.3


def test_top_and_health_say_in_a_sentence_that_nobody_answers(seen):
    assert CliRunner().invoke(main, ["--server", seen.address, "health"]).output == "serving\n"
    for command in (["top", "http://127.0.0.1:9/metrics"], ["--server", "127.0.0.1:9", "health", "--wait", "0.3"]):
        ended = CliRunner().invoke(main, command)
        assert ended.exit_code == 3 and ended.output.startswith("Error: ") and ended.output.count("\n") == 1
