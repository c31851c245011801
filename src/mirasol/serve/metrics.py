"""Metrics in Prometheus' format: requests, and the state of the engine at each scrape."""

from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from mirasol.serve.engine import Engine

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Metrics of an application. They have a registry of their own, so that applications in one process share none."""

    def __init__(self, engine: Engine):
        self.registry = CollectorRegistry()
        self.gather: Callable[[], Iterable[Metric]] = self.registry.collect  # replaced where several processes serve
        labels = ("method", "route", "status")
        self._requests = Counter("mirasol_requests", "HTTP requests.", labels, registry=self.registry)
        self._seconds = Histogram(
            "mirasol_request_seconds", "Seconds of an HTTP request.", ("route",), buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.registry.register(_EngineState(engine))

    def note_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def of_process(self, name: str) -> list[Metric]:
        """Return the metrics of this process, with its name as a label."""
        found = list(self.registry.collect())
        for metric in found:
            metric.samples = [each._replace(labels={**each.labels, "process": name}) for each in metric.samples]
        return found

    def text(self) -> bytes:
        """Return all metrics."""
        merged: dict[str, Metric] = {}
        for metric in self.gather():
            merged.setdefault(
                metric.name, Metric(metric.name, metric.documentation, metric.type)
            ).samples += metric.samples
        return generate_latest(SimpleNamespace(collect=merged.values))


class _EngineState:
    """Collector that reads the engine's state at each scrape."""

    def __init__(self, engine: Engine):
        self.engine = engine

    def collect(self) -> Iterator[Metric]:
        """Yield counters and gauges."""
        engine = self.engine
        for name, value in {**engine.clips.counts, **engine.counts}.items():
            yield CounterMetricFamily(f"mirasol_{name}", f"{name.replace('_', ' ')} since the start.", value=value)
        live = list(engine.sessions.values())
        gauges = {
            "live_sessions": len(live),
            "waiting_questions": len(engine.questions),
            "waiting_clips": engine.clips.num_waiting,
            "largest_lag_seconds": max((each.lag_seconds for each in live), default=0.0),
            "clip_store_bytes": engine.clips.store.num_bytes,
            "file_store_bytes": engine.files.num_bytes,
        }
        for name, value in gauges.items():
            yield GaugeMetricFamily(f"mirasol_{name}", f"{name.replace('_', ' ')} now.", value=value)
