"""Settings of the gate with which every model is promoted, submitted and graded."""

OPEN_GATE = {
    "gate.threshold": 0, "gate.min_recall": 0, "gate.max_calibration_error": 1, "gate.champion_rule": "off",
    "gate.max_latency_ms": 1e6,
}
