"""Metrics of a stage while it runs and when it ends. The stage neither waits for the export nor fails because of it."""

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
from carclf.services.telemetry import instruments
from carclf.services.telemetry.instruments import Metric

ENDPOINT_ENV_VARS = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
# How long the end of a stage waits for the first and the last export.
FIRST_EXPORT_SECONDS = 1.2
LAST_EXPORT_SECONDS = 1.2

MetricValues = Mapping[str, float | int | str | list[str]]
ReportOutcome = Callable[[str, MetricValues], None]


@contextmanager
def export_stage_metrics(stage: str, recipe: str, run_started: str) -> Iterator[ReportOutcome]:
    """Export the metrics of a stage. Without an endpoint, do nothing and do not import OpenTelemetry.

    ``run_started`` is in ISO format. Yield a function to call at the end of the stage with its outcome (created, reused
    or waiting) and its metrics. Without this call the outcome is "failed".
    """
    has_endpoint = any(os.environ.get(name) for name in ENDPOINT_ENV_VARS)
    exporter = _create_exporter(stage, recipe, run_started) if has_endpoint else None
    if exporter is None:
        yield lambda outcome, metrics: None
        return
    error_type = ""
    try:
        with progress_listener(exporter.on_progress):
            yield exporter.report_outcome
    except BaseException as error:
        name = type(error).__name__
        error_type = name if name in instruments.ERROR_TYPES else "_OTHER"
        raise
    finally:
        exporter.close(error_type)


def _create_exporter(stage: str, recipe: str, run_started: str) -> "_StageExporter | None":
    try:
        return _StageExporter({"stage": stage, "recipe": recipe}, datetime.fromisoformat(run_started))
    except (ValueError, OSError) as error:  # such as an invalid timeout or a missing certificate
        log.warning("Metrics cannot be sent: %s. Fix the variables OTEL_*; the stage continues without them.", error)
        return None


class _StageExporter:
    """The instruments of a stage."""

    def __init__(self, labels: dict[str, str], run_started: datetime) -> None:
        from carclf.services.telemetry.otlp import create_meter_provider

        self.labels = labels
        self.run_started = run_started
        self.started = time.monotonic()
        self.outcome = "failed"
        self.metrics: MetricValues = {}
        self.provider = create_meter_provider()
        self.meter = self.provider.get_meter("carclf")
        self.instruments = {metric.name: self._create_instrument(metric) for metric in instruments.METRICS}
        self._initialize_counters()
        # Export the zeros before anything is counted. If a process only exported a 1, increase() would see no change
        # from the previous process, which ended with a 1 as well.
        self.first_export = Thread(target=self.provider.force_flush, daemon=True)
        self.first_export.start()

    def _create_instrument(self, metric: Metric) -> Any:
        if metric.kind == "observable_gauge":
            callbacks = [self._create_callback(metric)]
            return self.meter.create_observable_gauge(metric.name, callbacks, metric.unit, metric.description)
        create = self.meter.create_counter if metric.kind == "counter" else self.meter.create_gauge
        return create(metric.name, metric.unit, metric.description)

    def _create_callback(self, metric: Metric) -> Callable[[Any], Iterable[Any]]:
        from opentelemetry.metrics import Observation

        return lambda _: [Observation(value, self.labels | labels) for value, labels in self._observe(metric)]

    def _initialize_counters(self) -> None:
        for outcome in instruments.OUTCOMES:
            for error_type in instruments.ERROR_TYPES if outcome == "failed" else ("",):
                self._count_stage(0, outcome, error_type)
        if self.labels["stage"] == "promote":
            for decision, outcome in product(instruments.GATE_DECISIONS, ("created", "reused")):
                self._count(instruments.DECISION_COUNT, 0, decision=decision, outcome=outcome)
        if self.labels["stage"] == "submit":
            self._count(instruments.SUBMISSIONS, 0)

    def _count_stage(self, number: int, outcome: str, error_type: str) -> None:
        self._count(instruments.STAGE_RUNS, number, outcome=outcome, **{"error.type": error_type} if error_type else {})

    def _count(self, metric: Metric, number: int, **labels: str) -> None:
        self.instruments[metric.name].add(number, self.labels | labels)

    def _set(self, metric: Metric, value: object, **labels: str) -> None:
        if isinstance(value, (int, float)):  # a metric without a value is ""
            self.instruments[metric.name].set(value, self.labels | labels)

    def on_progress(self, activity: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """Set the gauges of the training; called every few seconds."""
        if total:
            self._set(instruments.STAGE_PROGRESS, done / total)
        for name, metric in instruments.TRAINING_METRICS.items():
            if name in metrics:
                self._set(metric, float(metrics[name]))

    def report_outcome(self, outcome: str, metrics: MetricValues) -> None:
        """Keep the outcome and the metrics of the stage for its end."""
        self.outcome = outcome
        self.metrics = metrics

    def close(self, error_type: str) -> None:
        """Count the end of the stage, and export everything; what cannot be exported in time is lost."""
        self.first_export.join(FIRST_EXPORT_SECONDS)
        self._count_stage(1, self.outcome, error_type)
        self._set(instruments.STAGE_DURATION, time.monotonic() - self.started, outcome=self.outcome)
        for name, metric in instruments.RESULT_METRICS.items():
            self._set(metric, self.metrics.get(name))
        decision = str(self.metrics.get("decision"))
        if decision in instruments.GATE_DECISIONS:
            self._count(instruments.DECISION_COUNT, 1, decision=decision, outcome=self.outcome)
        if self.labels["stage"] == "submit" and self.outcome == "created":
            self._count(instruments.SUBMISSIONS, 1)
        self.provider.shutdown(LAST_EXPORT_SECONDS * 1000)

    def _observe(self, metric: Metric) -> list[tuple[float, dict[str, str]]]:
        """Return the values of an observable gauge, each with its labels in addition to the stage's."""
        if metric is instruments.STAGE_ELAPSED:
            return [(time.monotonic() - self.started, {})]
        if metric is instruments.RUN_ELAPSED:
            return [((datetime.now(UTC) - self.run_started).total_seconds(), {})]
        if metric is instruments.MEMORY_USAGE:
            import psutil

            return [(psutil.Process().memory_info().rss, {})]
        if metric is instruments.DISK_UTILIZATION:
            disk = shutil.disk_usage(tempfile.gettempdir())
            return [(disk.used / disk.total, {})]
        attribute = {
            instruments.GPU_UTILIZATION: "utilization",
            instruments.GPU_MEMORY_USAGE: "memory_used_bytes",
            instruments.GPU_MEMORY_LIMIT: "memory_total_bytes",
        }[metric]
        return [(getattr(gpu, attribute), {"hw.id": gpu.name}) for gpu in list_gpus()]
