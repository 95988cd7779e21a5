"""Histograms that take many values at once: a step's worth costs one call, whatever the number of tokens."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry


class BatchHistogram(Collector):
    """A Prometheus histogram with one label, or none if `label` is empty. NaN is not counted. One thread may add."""

    def __init__(self, name: str, help: str, bounds: Sequence[float], label: str, registry: CollectorRegistry) -> None:
        self._name, self._help = name, help
        self._labels = [label] if label else []
        self._bounds = np.asarray(bounds, dtype=np.float64)
        self._names = [*(str(float(bound)) for bound in bounds), "+Inf"]
        self._counts: dict[str, np.ndarray] = {}
        self._sums: dict[str, float] = {}
        registry.register(self)

    def add(self, label: str, values: ArrayLike) -> None:
        """Take in values."""
        numbers = np.asarray(values, dtype=np.float64)
        numbers = numbers[~np.isnan(numbers)]
        counts = np.bincount(np.searchsorted(self._bounds, numbers), minlength=len(self._names))
        self._counts[label] = self._counts.get(label, 0) + counts
        self._sums[label] = self._sums.get(label, 0.0) + float(numbers.sum())

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """For the registry. With bounds below zero there is no sum: it would not only grow, as a counter must."""
        family = HistogramMetricFamily(self._name, self._help, labels=self._labels)
        for label, counts in self._counts.copy().items():
            buckets = list(zip(self._names, np.cumsum(counts).tolist(), strict=True))
            family.add_metric([label] if self._labels else [], buckets, self._sums[label])
        yield family
