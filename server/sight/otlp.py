"""Metrics by OpenTelemetry: what Prometheus would read, sent by OTLP over gRPC every so many seconds.

Needs the extra `tracing`. Where they go, and how often, is set by OpenTelemetry's own variables:
OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_METRIC_EXPORT_INTERVAL (milliseconds; 60,000).
"""

import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import export as sdk
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from server import __version__
from server.sight.tracing import described

_SINCE_THE_START = sdk.AggregationTemporality.CUMULATIVE


class MetricsSender:
    """Sends the metrics of a registry, in a thread of its own, until `end`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._exporter = OTLPMetricExporter()
        self._start = time.time_ns()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_sending, name="otlp metrics", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Send once more, and no more. Blocks, for OTEL_EXPORTER_OTLP_TIMEOUT seconds at most if nobody answers."""
        self._ended.set()
        self._thread.join()
        self._exporter.shutdown()

    def _keep_sending(self) -> None:
        seconds = float(os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", "60000")) / 1000
        while not self._ended.wait(seconds):
            self._send()
        self._send()

    def _send(self) -> None:
        scope = InstrumentationScope("thermostat", __version__)
        metrics = list(converted(self._registry.collect(), self._start, time.time_ns()))
        scoped = sdk.ScopeMetrics(scope, metrics, "")
        self._exporter.export(sdk.MetricsData([sdk.ResourceMetrics(described(), [scoped], "")]))


def converted(families: Iterable[Metric], start: int, now: int) -> Iterator[sdk.Metric]:
    """Prometheus' metrics as OpenTelemetry's, under the same names. start, now: nanoseconds of Unix time."""

    def points(samples: Sequence[Sample]) -> list[sdk.NumberDataPoint]:
        return [sdk.NumberDataPoint(sample.labels, start, now, sample.value) for sample in samples]

    for family in families:
        named = {
            suffix: [s for s in family.samples if s.name == family.name + suffix] for suffix in ("", "_total", "_info")
        }
        data: sdk.Sum | sdk.Histogram | sdk.Gauge
        if family.type == "counter":
            data = sdk.Sum(points(named["_total"]), _SINCE_THE_START, True)
        elif family.type == "histogram":
            data = sdk.Histogram(_histograms(family, start, now), _SINCE_THE_START)
        else:
            data = sdk.Gauge(points(named["_info" if family.type == "info" else ""]))
        if data.data_points:
            yield sdk.Metric(family.name, family.documentation, family.unit, data)


def _histograms(family: Metric, start: int, now: int) -> list[sdk.HistogramDataPoint]:
    buckets: dict[tuple, list[tuple[float, float]]] = {}
    sums: dict[tuple, float] = {}
    for sample in family.samples:
        labels = tuple((name, value) for name, value in sample.labels.items() if name != "le")
        if sample.name.endswith("_bucket"):
            buckets.setdefault(labels, []).append((float(sample.labels["le"]), sample.value))
        elif sample.name.endswith("_sum"):
            sums[labels] = sample.value
    made = []
    for labels, counted in buckets.items():
        bounds, up_to = zip(*sorted(counted), strict=True)
        counts = [int(upper - lower) for lower, upper in zip((0.0, *up_to), up_to, strict=False)]
        total: float = sums.get(labels)  # type: ignore[assignment]  # a histogram of what may be below zero has none
        made.append(
            sdk.HistogramDataPoint(
                dict(labels), start, now, int(up_to[-1]), total, counts, bounds[:-1],
                min=None, max=None,  # type: ignore[arg-type]  # unknown, which the protocol allows
            )
        )  # fmt: skip
    return made
