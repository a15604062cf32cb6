"""What Prometheus may read at /metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

if TYPE_CHECKING:
    from reformer_export.serving.models import ServedModel
    from reformer_export.serving.request_log import RequestRecord

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
UNKNOWN: Final = "none"
"""The model of a request that named none of those served: a name of a stranger's is no label."""


class Metrics:
    """Counters and gauges of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "reformer_requests", "Requests answered", ["model", "route", "status"], registry=self.registry
        )
        self._seconds = self._histogram(
            "request_seconds", "From a request's head to its answer's end", SECONDS
        )
        self._queue = self._histogram("queue_seconds", "Waiting for the worker", SECONDS)
        self._run = self._histogram("run_seconds", "In the model, of the whole batch", SECONDS)
        self._rows = self._histogram("batch_rows", "Rows that ran together, by request", ROWS)
        self._tokens = Counter(
            "reformer_tokens", "Tokens of requests and answers", ["model", "kind"], registry=self.registry
        )
        self._waiting = self._gauge("waiting_requests", "Requests in the queue")
        self._running = self._gauge("running_batches", "Batches in the worker")
        self._generations = self._gauge("generations", "Texts that are generated, or wait for it")
        self._ready = self._gauge("model_ready", "1 when the model can be asked")
        self._replaced = self._gauge("artifact_replaced", "1 when another artifact lies in the folder")
        self._restarts = self._gauge("worker_restarts", "How often the worker was started again")

    def watch_model(self, model: ServedModel) -> None:
        """Let the gauges of a model be read when somebody asks."""
        self._waiting.labels(model.name).set_function(lambda: model.batcher.waiting)
        self._running.labels(model.name).set_function(lambda: model.batcher.running)
        self._generations.labels(model.name).set_function(lambda: model.worker.generations)
        self._ready.labels(model.name).set_function(lambda: model.problem is None)
        self._replaced.labels(model.name).set_function(lambda: model.is_replaced)
        self._restarts.labels(model.name).set_function(lambda: model.worker.restarts)

    def count_request(self, record: RequestRecord) -> None:
        """Count a request that is over."""
        model = record.model or UNKNOWN
        self._requests.labels(model, record.route, str(record.status)).inc()
        self._seconds.labels(model).observe(record.seconds)
        if record.queue_ms is not None:
            self._queue.labels(model).observe(record.queue_ms / 1e3)
        if record.run_ms is not None:
            self._run.labels(model).observe(record.run_ms / 1e3)
        if record.batch is not None:
            self._rows.labels(model).observe(record.batch)
        for kind, count in (("input", record.tokens), ("generated", record.new_tokens)):
            if count:
                self._tokens.labels(model, kind).inc(count)

    def render(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, help_text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"reformer_{name}", help_text, ["model"], buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, help_text: str) -> Gauge:
        return Gauge(f"reformer_{name}", help_text, ["model"], registry=self.registry)
