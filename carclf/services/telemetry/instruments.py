"""Every metric that carclf tells: name, kind and unit by OpenTelemetry's conventions."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "observed"]


@dataclass(frozen=True)
class Metric:
    """A counter, a gauge that is set when something is known, or one that is observed at each export.

    Braces in a unit are a note; "" is a number that is neither a share nor a count.
    """

    name: str
    kind: Kind
    unit: str
    text: str


STAGE_RUNS = Metric("carclf.stage.runs", "counter", "{run}", "Ends of a stage, by outcome")
DECISION_COUNT = Metric("carclf.gate.decisions", "counter", "{decision}", "Decisions of the gate")
SUBMISSIONS = Metric("carclf.submissions", "counter", "{submission}", "Submissions that Kaggle counted")
STAGE_DURATION = Metric("carclf.stage.duration", "gauge", "s", "Seconds that the last end of a stage took")
STAGE_PROGRESS = Metric("carclf.stage.progress", "gauge", "1", "Done share of the present piece of work")

STAGE_ELAPSED = Metric("carclf.stage.elapsed", "observed", "s", "Seconds since the stage that runs began")
RUN_ELAPSED = Metric("carclf.run.elapsed", "observed", "s", "Seconds since the run of the stage that runs began")
MEMORY_USAGE = Metric("process.memory.usage", "observed", "By", "Memory of the stage's process")
DISK_UTILIZATION = Metric("system.filesystem.utilization", "observed", "1", "Used share of the disk that stages work on")
GPU_UTILIZATION = Metric("hw.gpu.utilization", "observed", "1", "Share of the time in which a GPU computed")
GPU_MEMORY_USAGE = Metric("hw.gpu.memory.usage", "observed", "By", "Memory in use on a GPU, by all processes")
GPU_MEMORY_LIMIT = Metric("hw.gpu.memory.limit", "observed", "By", "Memory of a GPU")

# By the names of the metrics that a training tells while it runs (carclf.progress).
TRAINING_METRICS = {
    "epoch": Metric("carclf.training.epoch", "gauge", "{epoch}", "Present epoch, from 1"),
    "loss": Metric("carclf.training.loss", "gauge", "", "Training loss, the mean of the epoch so far"),
    "accuracy": Metric("carclf.training.accuracy", "gauge", "1", "Training accuracy, of the epoch so far"),
    "learning_rate": Metric("carclf.training.learning_rate", "gauge", "", "Present learning rate"),
    "images_per_second": Metric("carclf.training.throughput", "gauge", "{image}/s", "Images trained on in a second"),
    "data_wait_fraction": Metric("carclf.training.data_wait", "gauge", "1", "Share of the time waiting for data"),
    "val_accuracy": Metric("carclf.validation.accuracy", "gauge", "1", "Validation accuracy"),
    "val_loss": Metric("carclf.validation.loss", "gauge", "", "Validation loss"),
}
# By the names of the metrics that a stage ends with.
RESULT_METRICS = {
    "val_accuracy": TRAINING_METRICS["val_accuracy"],
    "threshold": Metric("carclf.gate.threshold", "gauge", "1", "Accuracy that the gate asks for"),
    "public_score": Metric("carclf.public_score", "gauge", "", "Public score of the last submission"),
}
METRICS = (
    STAGE_RUNS, DECISION_COUNT, SUBMISSIONS, STAGE_DURATION, STAGE_PROGRESS, STAGE_ELAPSED, RUN_ELAPSED, MEMORY_USAGE, DISK_UTILIZATION, GPU_UTILIZATION, GPU_MEMORY_USAGE,
    GPU_MEMORY_LIMIT, *TRAINING_METRICS.values(), RESULT_METRICS["threshold"], RESULT_METRICS["public_score"],
)

OUTCOMES = ("made", "reused", "waiting", "failed")
# Other errors are told as the conventions' "_OTHER": so their number does not grow.
ERROR_TYPES = ("DataError", "QualityError", "ConfigError", "ServiceError", "MemoryError", "KeyboardInterrupt", "_OTHER")
GATE_DECISIONS = ("promoted", "rejected")
