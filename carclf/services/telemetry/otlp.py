"""Export of metrics by OTLP over HTTP, with short timeouts and a single warning."""

import logging
import os
import socket
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http import metric_exporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from carclf.progress import log

EXPORT_INTERVAL_SECONDS = 10.0
EXPORT_TIMEOUT_SECONDS = 1.0


class ExportErrorFilter(logging.Filter):
    """Replaces the error that the exporter logs at each export by a single warning of carclf."""

    def __init__(self) -> None:
        super().__init__()
        self._warned = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Reject the record; log a warning for the first error."""
        if record.levelno >= logging.ERROR and not self._warned:
            self._warned = True
            status = next((argument for argument in record.args or () if isinstance(argument, int)), None)
            reason = f"it responds with status {status}" if status else "it does not respond"
            # Without its URL, which may contain a password.
            log.warning("Metrics cannot be sent to the endpoint in OTEL_EXPORTER_OTLP_ENDPOINT: %s. The stage "
                        "continues without them.", reason)
        return False

    def reset(self) -> None:
        """Log a warning for the next error again."""
        self._warned = False


export_error_filter = ExportErrorFilter()


def create_meter_provider() -> MeterProvider:
    """Return a provider that exports the metrics of a stage; raise ValueError or OSError for invalid OTEL_* values."""
    logging.getLogger(metric_exporter.__name__).addFilter(export_error_filter)
    timeouts = ("OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT")
    has_timeout = any(os.environ.get(name) for name in timeouts)
    exporter = metric_exporter.OTLPMetricExporter(timeout=None if has_timeout else EXPORT_TIMEOUT_SECONDS)
    interval = float(os.environ.get("OTEL_METRIC_EXPORT_INTERVAL") or EXPORT_INTERVAL_SECONDS * 1000)
    # The conventions require an instance id per process. Each stage is a process whose counters start at 0, so that
    # would create new series forever: the machine is the instance.
    resource = Resource.create({"service.name": "carclf", "service.version": version("carclf"),
                                "service.instance.id": socket.gethostname()})
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=interval)
    return MeterProvider([reader], resource, shutdown_on_exit=False)
