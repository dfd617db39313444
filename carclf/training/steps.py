"""The steps of one ``fit``: a callback that reports each of them, and the text of their metrics."""

from collections.abc import Callable
from typing import Any

import keras


class StepCallback(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
    """Call ``on_start`` when ``fit`` starts and ``on_step`` with the logs of each step; keep the logs of the last one.

    Keyword ``last`` of ``on_step`` is true for the last of ``num_steps`` steps.
    """

    def __init__(self, on_start: Callable[[], None], on_step: Callable[..., None], num_steps: int) -> None:
        super().__init__()
        self.on_start = on_start
        self.on_step = on_step
        self.num_steps = num_steps
        self.logs: dict[str, Any] = {}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start, when ``fit`` has reset the metrics."""
        self.on_start()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Report a step."""
        self.logs = logs
        self.on_step(logs, last=batch + 1 == self.num_steps)


def format_step_metrics(metrics: dict[str, float]) -> str:
    """Format the metrics of a step for the progress line."""
    gpu = f", GPU {metrics['gpu_memory_mb']:.0f} MB" if "gpu_memory_mb" in metrics else ""
    gpu += f" at {100 * metrics['gpu_utilization']:.0f}%" if "gpu_utilization" in metrics else ""
    return (
        f"epoch {metrics['epoch']:.0f}, loss {metrics['loss']:.3f}, accuracy {metrics['accuracy']:.3f}, "
        f"learning rate {metrics['learning_rate']:.2g}, {metrics['images_per_second']:.1f} img/s, "
        f"data wait {100 * metrics['data_wait_fraction']:.1f}%, {metrics['memory_mb']:.0f} MB{gpu}"
    )
