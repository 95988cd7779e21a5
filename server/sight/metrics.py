"""Metrics for Prometheus, on a port of their own."""

import asyncio
from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    ProcessCollector,
    start_http_server,
)

from server.engine.events import Event
from server.sight.ledger import Entry
from server.sight.meter import Meter

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """All figures of a server: those of its engine by way of `meter`, those of its calls as a Book."""

    def __init__(self, deliver: Callable[[list[tuple[str, Event]]], None]) -> None:
        self.registry = CollectorRegistry()
        self.meter = Meter(deliver, self.registry)
        self._rpcs = Counter(
            "thermostat_rpcs", "Calls by method and status", ["method", "code"], registry=self.registry
        )
        self._seconds = Histogram(
            "thermostat_request_duration_seconds", "How long calls took", ["method"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._first = Histogram(
            "thermostat_time_to_first_token_seconds", "From arrival to the first token",
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._open = Gauge("thermostat_rpcs_open", "Calls being served", registry=self.registry)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def describe(self, rows: int, kv_tokens: int, **about: str) -> None:
        """Say what does not change while the server runs."""
        Gauge("thermostat_rows", "Most generations that decode at once", registry=self.registry).set(rows)
        capacity = Gauge("thermostat_kv_cache_capacity_tokens", "Tokens of KV memory", registry=self.registry)
        capacity.set(kv_tokens)
        Info("thermostat_model", "What is served", registry=self.registry).info(about)

    def open(self, entry: Entry) -> None:
        """A call begins."""
        self._open.inc()

    def close(self, entry: Entry) -> None:
        """It has ended."""
        method = entry.method.rsplit("/", 1)[1]
        self._open.dec()
        self._rpcs.labels(method, entry.code).inc()
        self._seconds.labels(method).observe(entry.seconds)
        first = entry.figures.get("first_token_seconds")
        if isinstance(first, float) and method == "Generate":
            self._first.observe(first)

    def serve(self, host: str, port: int) -> tuple[str, Callable[[], None]]:
        """Listen, in a thread of its own; the address, and what ends it. OSError if the port is taken."""
        server, thread = start_http_server(port, host, self.registry)

        def end() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/metrics", end

    async def keep_up(self, seconds: float) -> None:
        """Add up what was noted every so many seconds, for ever."""
        while True:
            await asyncio.sleep(seconds)
            self.meter.add_up()
