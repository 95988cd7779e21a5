"""All that an operator sees of one server, put together from its settings."""

import asyncio
from collections.abc import Callable

from server.config import Config
from server.engine.engine import Deliver, Engine
from server.engine.local import LocalEngine
from server.sight.ledger import Book, Ledger, RequestLog
from server.sight.metrics import Metrics

_ADD_UP_SECONDS = 0.25


class Sight:
    """Made first, then given the engine; `start` once all else runs.

    deliver: what the engine delivers to. address: where the metrics are; None without.
    """

    def __init__(self, config: Config, deliver: Deliver) -> None:
        """RuntimeError if OpenTelemetry is asked for and its packages are not there."""
        self._config = config
        measured = config.metrics_port is not None or config.otlp_metrics
        self._metrics = Metrics(deliver) if measured else None
        self.deliver = deliver if self._metrics is None else self._metrics.meter.deliver
        self.address: str | None = None
        self._task: asyncio.Task | None = None  # kept, or it would be collected while it runs
        self._ends: list[Callable[[], None]] = []
        books: list[Book] = [RequestLog()] if self._metrics is None else [RequestLog(), self._metrics]
        if config.tracing or config.otlp_metrics:
            _need_opentelemetry()
        if config.tracing:
            books.insert(0, self._tracing())
        self.interceptor = Ledger(books)

    def around(self, engine: LocalEngine) -> Engine:
        """The engine that the service sees."""
        if self._metrics is None:
            return engine
        self._metrics.meter.engine = engine
        return self._metrics.meter

    def start(self, rows: int, kv_tokens: int, **about: str) -> None:
        """Listen for those who ask for metrics, and send them to those who do not. OSError if the port is taken."""
        if self._metrics is None:
            return
        self._metrics.describe(rows, kv_tokens, **about)
        if self._config.metrics_port is not None:
            self.address, end = self._metrics.serve(self._config.metrics_host, self._config.metrics_port)
            self._ends.append(end)
        if self._config.otlp_metrics:
            from server.sight.otlp import MetricsSender

            self._ends.append(MetricsSender(self._metrics.registry).end)
        self._task = asyncio.get_running_loop().create_task(self._metrics.keep_up(_ADD_UP_SECONDS))

    async def stop(self) -> None:
        """Send what has not been sent, and listen no more."""
        for end in self._ends:
            await asyncio.to_thread(end)

    def _tracing(self) -> Book:
        from server.sight.tracing import Tracing, exporting

        tracing = Tracing(exporting())
        self._ends.append(tracing.end)
        return tracing


def _need_opentelemetry() -> None:
    """Told at the start, before a model is loaded."""
    try:
        import server.sight.otlp  # noqa: F401
    except ImportError:
        told = "--tracing and --otlp-metrics need more packages: pip install 'thermostat-server[tracing]'"
        raise RuntimeError(told) from None
