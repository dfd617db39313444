"""Telling what a stage does while it runs and how it ended, by OTLP; the stage neither waits for it nor fails of it."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import product
from threading import Thread
from typing import Any

from carclf.hardware import list_gpus
from carclf.progress import log, progress_listener
from carclf.services.telemetry import instruments as table
from carclf.services.telemetry.instruments import Metric

ENDPOINT_ENV_VARS = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
FIRST_SECONDS = LAST_SECONDS = 1.2  # that a stage waits at its end, at most, for its first and its last metrics

Figures = Mapping[str, float | int | str | list[int]]
ReportOutcome = Callable[[str, Figures], None]


@contextmanager
def export_stage_metrics(stage: str, recipe: str, begun: str) -> Iterator[ReportOutcome]:
    """While this holds a stage is watched; call what is yielded with its outcome and metrics when it has ended well.

    ``begun`` is when the run began, in ISO format. Nothing is done, and OpenTelemetry not imported, where the
    deployment names nobody to tell.
    """
    watch = _begun(stage, recipe, begun) if any(os.environ.get(name) for name in ENDPOINT_ENV_VARS) else None
    if watch is None:
        yield lambda outcome, metrics: None
        return
    ended: dict[str, Any] = {"outcome": "failed", "metrics": {}}
    try:
        with progress_listener(watch.heard):
            yield lambda outcome, metrics: ended.update(outcome=outcome, metrics=metrics)
    except BaseException as error:
        kind = type(error).__name__
        ended["error"] = kind if kind in table.ERROR_TYPES else "_OTHER"
        raise
    finally:
        watch.end(**ended)


def _begun(stage: str, recipe: str, begun: str) -> "_Watch | None":
    try:
        return _Watch(stage, recipe, datetime.fromisoformat(begun))
    except (ValueError, OSError) as error:  # such as a time-out that is no number, or a certificate that is not there
        log.warning("Metrics cannot be sent: %s. Mend the variables OTEL_*; the stage goes on without them.", error)
        return None


class _Watch:
    """One stage's instruments, and their way out."""

    def __init__(self, stage: str, recipe: str, begun: datetime) -> None:
        from carclf.services.telemetry.otlp import create_meter_provider

        self.stage, self.labels, self.begun = stage, {"stage": stage, "recipe": recipe}, begun
        self.started, self.provider = time.monotonic(), create_meter_provider()
        self.meter = self.provider.get_meter("carclf")
        self.instruments = {metric.name: self._instrument(metric) for metric in table.METRICS}
        self._count_nothing()
        # The zeros leave before anything is counted: a process that told a first 1 only would look, to a reader of
        # counters, as if nothing had happened since the process before it, which ended with 1 as well.
        self.first = Thread(target=self.provider.force_flush, daemon=True)
        self.first.start()

    def _instrument(self, metric: Metric) -> Any:
        if metric.kind == "observed":
            return self.meter.create_observable_gauge(metric.name, [self._observer(metric)], metric.unit, metric.text)
        create = self.meter.create_counter if metric.kind == "counter" else self.meter.create_gauge
        return create(metric.name, metric.unit, metric.text)

    def _observer(self, metric: Metric) -> Callable[[Any], Iterable[Any]]:
        from opentelemetry.metrics import Observation

        return lambda _: [Observation(value, self.labels | more) for value, more in _observed(metric, self)]

    def _count_nothing(self) -> None:
        for outcome in table.OUTCOMES:
            for error in table.ERROR_TYPES if outcome == "failed" else ("",):
                self._count(table.STAGE_RUNS, 0, outcome=outcome, **{"error.type": error} if error else {})
        if self.stage == "promote":
            for decision, outcome in product(table.GATE_DECISIONS, ("made", "reused")):
                self._count(table.DECISION_COUNT, 0, decision=decision, outcome=outcome)
        if self.stage == "submit":
            self._count(table.SUBMISSIONS, 0)

    def _count(self, metric: Metric, number: int, **labels: str) -> None:
        self.instruments[metric.name].add(number, self.labels | labels)

    def _set(self, metric: Metric, value: float | int | str, **labels: str) -> None:
        if not isinstance(value, str):  # "" is a figure that is not known
            self.instruments[metric.name].set(value, self.labels | labels)

    def heard(self, what: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """What long work tells every few seconds."""
        if total:
            self._set(table.STAGE_PROGRESS, done / total)
        for name, metric in table.TRAINING_METRICS.items():
            if name in metrics:
                self._set(metric, float(metrics[name]))

    def end(self, outcome: str, metrics: Figures, error: str = "") -> None:
        """Count the stage's end, and let all go out; what cannot go out in time is lost."""
        self.first.join(FIRST_SECONDS)
        self._count(table.STAGE_RUNS, 1, outcome=outcome, **{"error.type": error} if error else {})
        self._set(table.STAGE_DURATION, time.monotonic() - self.started, outcome=outcome)
        for name, metric in table.RESULT_METRICS.items():
            if name in metrics:
                self._set(metric, metrics[name])
        if metrics.get("decision") in table.GATE_DECISIONS:
            self._count(table.DECISION_COUNT, 1, decision=str(metrics["decision"]), outcome=outcome)
        if self.stage == "submit" and outcome == "made":
            self._count(table.SUBMISSIONS, 1)
        self.provider.shutdown(LAST_SECONDS * 1000)


def _observed(metric: Metric, watch: _Watch) -> list[tuple[float, dict[str, str]]]:
    """What is measured at each export, with the labels beside the stage's own."""
    if metric is table.STAGE_ELAPSED:
        return [(time.monotonic() - watch.started, {})]
    if metric is table.RUN_ELAPSED:
        return [((datetime.now(UTC) - watch.begun).total_seconds(), {})]
    if metric is table.MEMORY_USAGE:
        import psutil

        return [(psutil.Process().memory_info().rss, {})]
    if metric is table.DISK_UTILIZATION:
        disk = shutil.disk_usage(tempfile.gettempdir())
        return [(disk.used / disk.total, {})]
    measured = {table.GPU_UTILIZATION: "utilization", table.GPU_MEMORY_USAGE: "memory_used_bytes", table.GPU_MEMORY_LIMIT: "memory_total_bytes"}
    return [(getattr(gpu, measured[metric]), {"hw.id": gpu.name}) for gpu in list_gpus()]
