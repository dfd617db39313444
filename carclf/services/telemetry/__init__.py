"""Metrics by OpenTelemetry, where OTEL_EXPORTER_OTLP_ENDPOINT names a place to send them to; else nothing at all."""

from carclf.services.telemetry.stage_metrics import watched

__all__ = ["watched"]
