"""How metrics leave this process: OTLP over HTTP, with short time-outs and one warning."""

import logging
import os
import socket
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http import metric_exporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from carclf.progress import log

SECONDS_BETWEEN_EXPORTS = 10.0
EXPORT_SECONDS = 1.0


class _OneWarning(logging.Filter):
    """Says once, in carclf's words, what the exporter would say at each export."""

    said = False

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR and not self.said:
            self.said = True
            status = next((one for one in record.args or () if isinstance(one, int)), None)
            how = f"it answered {status}" if status else "it does not answer"
            # Its address is not told: it may hold a password.
            log.warning("Metrics do not reach the place that OTEL_EXPORTER_OTLP_ENDPOINT names: %s. The stage goes on "
                        "without them.", how)
        return False


_one_warning = _OneWarning()


def create_meter_provider() -> MeterProvider:
    """A way out for one stage's metrics; ValueError or OSError where the variables OTEL_* are wrong."""
    logging.getLogger(metric_exporter.__name__).addFilter(_one_warning)
    own = any(os.environ.get(name) for name in ("OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT"))
    exporter = metric_exporter.OTLPMetricExporter(timeout=None if own else EXPORT_SECONDS)
    interval = float(os.environ.get("OTEL_METRIC_EXPORT_INTERVAL") or SECONDS_BETWEEN_EXPORTS * 1000)
    # The conventions want an instance of each process; of stages that would be new series without end, and the
    # counters begin at nought in each: so the machine is the instance.
    resource = Resource.create({"service.name": "carclf", "service.version": version("carclf"),
                                "service.instance.id": socket.gethostname()})
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=interval)
    return MeterProvider([reader], resource, shutdown_on_exit=False)
