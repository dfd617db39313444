"""All metrics of carclf: name, kind and unit by OpenTelemetry's conventions."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "observable_gauge"]


@dataclass(frozen=True)
class Metric:
    """A counter, a gauge that is set when its value is known, or a gauge that is observed at each export.

    The unit may be an annotation in braces, "1" for a ratio, or "" for a number that is neither a ratio nor a count.
    """

    name: str
    kind: Kind
    unit: str
    description: str


STAGE_RUNS = Metric("carclf.stage.runs", "counter", "{run}", "Finished stages, by outcome")
DECISION_COUNT = Metric("carclf.gate.decisions", "counter", "{decision}", "Decisions of the gate")
SUBMISSIONS = Metric("carclf.submissions", "counter", "{submission}", "Submissions that Kaggle counted")
STAGE_DURATION = Metric("carclf.stage.duration", "gauge", "s", "Duration of the last finished stage")
STAGE_PROGRESS = Metric("carclf.stage.progress", "gauge", "1", "Completed fraction of the current activity")

STAGE_ELAPSED = Metric("carclf.stage.elapsed", "observable_gauge", "s", "Time since the running stage started")
RUN_ELAPSED = Metric("carclf.run.elapsed", "observable_gauge", "s", "Time since the run of the running stage started")
MEMORY_USAGE = Metric("process.memory.usage", "observable_gauge", "By", "Memory of the stage's process")
DISK_UTILIZATION = Metric(
    "system.filesystem.utilization", "observable_gauge", "1", "Used fraction of the disk for temporary files")
GPU_UTILIZATION = Metric("hw.gpu.utilization", "observable_gauge", "1", "Fraction of the time in which a GPU computed")
GPU_MEMORY_USAGE = Metric("hw.gpu.memory.usage", "observable_gauge", "By", "Used memory of a GPU, by all processes")
GPU_MEMORY_LIMIT = Metric("hw.gpu.memory.limit", "observable_gauge", "By", "Memory of a GPU")

# Keys: the names in the progress reports of a training (carclf.progress).
TRAINING_METRICS = {
    "epoch": Metric("carclf.training.epoch", "gauge", "{epoch}", "Current epoch, from 1"),
    "loss": Metric("carclf.training.loss", "gauge", "", "Training loss, the mean of the epoch so far"),
    "accuracy": Metric("carclf.training.accuracy", "gauge", "1", "Training accuracy of the epoch so far"),
    "learning_rate": Metric("carclf.training.learning_rate", "gauge", "", "Current learning rate"),
    "images_per_second": Metric("carclf.training.throughput", "gauge", "{image}/s", "Training images per second"),
    "data_wait_fraction": Metric("carclf.training.data_wait", "gauge", "1", "Fraction of the time spent waiting"),
    "val_accuracy": Metric("carclf.validation.accuracy", "gauge", "1", "Validation accuracy"),
    "val_metric": Metric("carclf.validation.metric", "gauge", "", "Validation value of the metric of the data"),
    "val_loss": Metric("carclf.validation.loss", "gauge", "", "Validation loss"),
}
# Keys: the names in the metrics of a finished stage.
RESULT_METRICS = {
    "val_accuracy": TRAINING_METRICS["val_accuracy"],
    "val_metric": TRAINING_METRICS["val_metric"],
    "threshold": Metric("carclf.gate.threshold", "gauge", "1", "Metric that the gate requires"),
    "public_score": Metric("carclf.public_score", "gauge", "", "Public score of the last submission"),
}
METRICS = (
    STAGE_RUNS, DECISION_COUNT, SUBMISSIONS, STAGE_DURATION, STAGE_PROGRESS, STAGE_ELAPSED, RUN_ELAPSED, MEMORY_USAGE,
    DISK_UTILIZATION, GPU_UTILIZATION, GPU_MEMORY_USAGE, GPU_MEMORY_LIMIT, *TRAINING_METRICS.values(),
    RESULT_METRICS["threshold"], RESULT_METRICS["public_score"],
)  # fmt: skip

OUTCOMES = ("created", "reused", "waiting", "skipped", "failed")
# Other errors are reported as the conventions' "_OTHER", which limits the number of series.
ERROR_TYPES = ("DataError", "QualityError", "ConfigError", "ServiceError", "MemoryError", "KeyboardInterrupt", "_OTHER")
GATE_DECISIONS = ("promoted", "rejected")
