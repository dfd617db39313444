"""Metrics by OpenTelemetry, used if OTEL_EXPORTER_OTLP_ENDPOINT is set."""

from carclf.services.telemetry.stage_metrics import export_stage_metrics

__all__ = ["export_stage_metrics"]
