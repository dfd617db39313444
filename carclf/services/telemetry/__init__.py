"""Metrics by OpenTelemetry, where OTEL_EXPORTER_OTLP_ENDPOINT names a place to send them to; else nothing at all."""

from carclf.services.telemetry.stage_metrics import export_stage_metrics

__all__ = ["export_stage_metrics"]
