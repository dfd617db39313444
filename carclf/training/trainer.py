"""The fine-tuning loop: ``fit`` by whole epochs, validation on averaged weights, and checkpoints to resume from.

A checkpoint holds everything that determines the next step: the variables of the model and the optimizer (with the
moving average and the states of the random generators), and the position in the data. If an epoch is selected, it also
holds patience and the weights of the best epoch.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import keras
import numpy as np
import pandas as pd
import psutil
from pydantic import TypeAdapter, ValidationError

from carclf.config import FineTune
from carclf.errors import QualityError, StageWaiting
from carclf.hardware import gpu_metrics
from carclf.pipeline.batches import TrainingSource, batches
from carclf.pipeline.mixing import BatchMixer
from carclf.progress import Meter, log, report_progress
from carclf.training.checkpoints import Arrays, Checkpoints, CheckpointWriter
from carclf.training.compile import CROSS_ENTROPY, build_metric_variables
from carclf.training.feed import BatchSequence, BatchStream, DataWaitCallback, without_autotune
from carclf.training.optimizers import BlockwiseAdamW
from carclf.training.schedules import phases_by_epoch
from carclf.training.steps import StepCallback, format_step_metrics
from carclf.training.validation import Objective, Validation, ema_weights

FINITE_CHECK_STEPS = 20  # steps between two checks of the loss: each check waits for the device
MAX_RESTARTS = 3
NOT_MEASURED = Validation(float("nan"), float("nan"), float("nan"))  # every other validation is better
Validate = Callable[[keras.Model], Validation]


class NonFiniteLossError(Exception):
    """The loss or the weights are not finite."""


@dataclass(frozen=True)
class TrainerOptions:
    """The settings, the mixing of batches, the objective, and the epoch after which training pauses (0: none).

    ``validate`` measures the validation images for the history only: they select nothing. It is None if no image is
    held out. ``select`` measures a model on images that are in neither the training nor the validation images. With it,
    the result is the epoch with the best measurement, and patience applies. Without it, the result is the last epoch.
    ``recompute_statistics`` sets the statistics of BatchNormalization to those of averaged weights. Training ends after
    ``last_step``, by default the last step of the last epoch. ``activity`` names the training in logs and progress.
    """

    settings: FineTune
    mixer: BatchMixer
    objective: Objective
    pause_epoch: int = 0
    validate: Validate | None = None
    select: Validate | None = None
    last_step: int = 0
    activity: str = "fine_tune"
    recompute_statistics: Callable[[keras.Model], None] | None = None


@dataclass
class TrainingState:
    """The state of a training without its variables. ``best`` is the measurement of the selected epoch's weights."""

    best: Validation
    step: int = 0
    seconds: float = 0.0
    best_epoch: int = 0  # 0: no epoch was selected
    best_loss: float = float("inf")
    stale_epochs: int = 0
    restarts: int = 0
    history: list[dict[str, int | float]] = field(default_factory=list)


@dataclass(frozen=True)
class _EpochStart:
    """The start of the part of an epoch that this process trains."""

    time: float = 0.0
    step: int = 0
    wait_seconds: float = 0.0


class Trainer:
    """One fine-tuning of a model from ``compile_for_fine_tuning``. ``run`` leaves the resulting weights in the model.

    They are the moving averages after the last step or, if ``TrainerOptions.select`` is given, after the best epoch.
    """

    def __init__(
        self, model: keras.Model, source: TrainingSource, checkpoints: Checkpoints, options: TrainerOptions
    ) -> None:
        self.model = model
        self.source = source
        self.checkpoints = checkpoints
        self.writer = CheckpointWriter(checkpoints)
        self.settings = options.settings
        self.objective = options.objective
        self.pause_epoch = options.pause_epoch
        self.validate = options.validate
        self.select = options.select
        self.last_step = options.last_step or source.steps_per_epoch * options.settings.epochs
        self.activity = options.activity
        self.recompute_statistics = options.recompute_statistics
        self.optimizer: BlockwiseAdamW = model.optimizer
        self.stream = BatchStream(lambda number: batches(
            source, source.batch_size, start_batch=number, num_workers=options.settings.num_workers, mix=options.mixer
        ))
        self.state = TrainingState(NOT_MEASURED)
        self.result_weights: Arrays = model.get_weights() if self.select else []
        self._interrupted_metrics: Arrays | None = None  # of an epoch that a checkpoint interrupted
        self._epoch_start = _EpochStart()
        self._counted = self._saved = time.monotonic()

    def run(self) -> pd.DataFrame:
        """Train to the end, from the latest checkpoint if there is one; return the history, one row per epoch.

        In the history, ``loss`` and ``val_loss`` are both the cross-entropy without label smoothing: of the augmented
        training images, and of the validation images.

        Raise StageWaiting after ``pause_epoch``, when its checkpoint is saved. Raise QualityError if the initial
        weights are not finite, or if the loss repeatedly is not.
        """
        build_metric_variables(self.model, self.source)
        with self.writer:
            if not self._restore():
                self._save_start()
            self._counted = time.monotonic()
            with Meter(self.activity, done=self.state.step) as meter:
                while not self._finished():
                    self._pause()
                    try:
                        self._train_epoch(meter)
                    except NonFiniteLossError:
                        self._restart()
                        self.stream.close()
        self.stream.close()
        if not self.select:
            with self._averaged_weights():
                self.result_weights = self.model.get_weights()
        self.model.set_weights(self.result_weights)
        return pd.DataFrame(self.state.history)

    @property
    def result_row(self) -> dict[str, int | float]:
        """The row of the history of the epoch whose weights are the result."""
        return self.state.history[self.state.best_epoch - 1]  # the last row if no epoch was selected

    @property
    def _epoch_number(self) -> int:
        """The epoch of the latest step, from 1. The budget or ``last_step`` may end it early."""
        return -(-self.state.step // self.source.steps_per_epoch)

    @property
    def _budget_spent(self) -> bool:
        budget = self.settings.budget_minutes
        return budget > 0 and self.state.seconds > budget * 60

    def _finished(self) -> bool:
        history = self.state.history
        if self._budget_spent and history and history[-1]["step"] == self.state.step:  # the weights are validated
            log.info("%s: budget is spent budget_minutes=%g", self.activity, self.settings.budget_minutes)
            return True
        if self.state.stale_epochs >= self.settings.patience:
            log.info("%s: metric on held-out training images did not improve metric=%s epochs=%d", self.activity,
                     self.objective.metric.name, self.state.stale_epochs)
            return True
        return self.state.step >= self.last_step

    def _pause(self) -> None:
        """Raise StageWaiting if training has reached ``pause_epoch``; its checkpoint has been saved."""
        epoch = self.state.step // self.source.steps_per_epoch
        if self.pause_epoch and epoch >= self.pause_epoch:
            self.stream.close()
            self.writer.wait()
            validation = {name: self.result_row[name] for name in ("val_accuracy", "val_metric")}
            raise StageWaiting(
                f"paused after epoch {epoch} of {self.settings.epochs}",
                metrics={"epoch": epoch, "metric": self.objective.metric.name, **validation},
            )

    def _count_time(self) -> None:
        """Add the time since the last call, including validation and saving, to the budget's seconds."""
        now = time.monotonic()
        self.state.seconds += now - self._counted
        self._counted = now

    def _train_epoch(self, meter: Meter) -> None:
        """Train the rest of the current epoch, validate, and save a checkpoint."""
        start = _EpochStart(time.monotonic(), self.state.step, self.stream.wait_seconds)
        self._epoch_start = start
        steps_per_epoch = self.source.steps_per_epoch
        num_steps = min(steps_per_epoch - start.step % steps_per_epoch, self.last_step - start.step)
        sequence = BatchSequence(self.stream, start.step, num_steps)
        steps = StepCallback(self._restore_epoch_metrics, partial(self._finish_step, meter), num_steps)
        with self.stream.reraise_source_error():
            self.model.fit(
                without_autotune(sequence), epochs=1, verbose=0, shuffle=False,
                callbacks=[DataWaitCallback(sequence), steps],
            )
        seconds = time.monotonic() - start.time
        waited = self.stream.wait_seconds - start.wait_seconds
        logs = {name: float(value) for name, value in steps.logs.items()}
        if not np.isfinite(logs["loss"]):
            raise NonFiniteLossError
        validation = self._measure_epoch()
        measured = {"val_loss": validation.loss, **validation.to_metrics()} if validation else {}
        logs["loss"] = logs.pop(CROSS_ENTROPY)
        self._record_epoch({
            "epoch": self._epoch_number, "step": self.state.step, **logs, **measured,
            "learning_rate": self._learning_rate(), "seconds": round(seconds, 2),
            "images_per_second": round((self.state.step - start.step) * self.source.batch_size / seconds, 2),
            "data_wait_fraction": round(waited / seconds, 4),
        }, validation)

    @contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        """Replace the model's weights by their moving average, if any, with its own statistics, within the block."""
        with ema_weights(self.model):
            if self.recompute_statistics and self.optimizer.use_ema:
                self.recompute_statistics(self.model)
            yield

    def _measure_epoch(self) -> Validation | None:
        """Measure the averaged weights on the validation images, if any, and on those that select an epoch."""
        if self.validate is None:
            return None
        with self._averaged_weights():
            validation = self.validate(self.model)
            # The last step may have damaged the weights, which no training loss shows yet.
            if not np.isfinite(validation.loss):
                raise NonFiniteLossError
            if self.select:
                self._select_epoch(self.select(self.model))
        return validation

    def _record_epoch(self, row: dict[str, Any], validation: Validation | None) -> None:
        self.state.history.append(row)
        log.info("%s: epoch done epoch=%d loss=%.4f%s images_per_second=%.1f data_wait_fraction=%.3f", self.activity,
                 row["epoch"], row["loss"], f" {self.objective.format(validation)}" if validation else "",
                 row["images_per_second"], row["data_wait_fraction"])
        report_progress(self.activity, self.state.step, self.last_step, row)
        self._count_time()
        self._save()

    def _select_epoch(self, measured: Validation) -> None:
        """Keep the best weights, in a tie the earliest, and lower the rate of the plateau schedule.

        Patience counts only in the last phase: earlier, some blocks do not train yet and images are small.
        """
        state, settings = self.state, self.settings
        phase = phases_by_epoch(settings.epochs, settings.num_phases)[self._epoch_number - 1]
        if not state.best_epoch or self.objective.is_better(measured, state.best):
            state.best = measured
            state.stale_epochs = 0
            state.best_epoch = self._epoch_number
            self.result_weights = self.model.get_weights()
        elif phase == settings.num_phases - 1:
            state.stale_epochs += 1
        if settings.schedule == "plateau" and measured.loss >= state.best_loss:
            self._halve_learning_rate()
        state.best_loss = min(measured.loss, state.best_loss)

    def _halve_learning_rate(self) -> None:
        self.optimizer.scale.assign(self.optimizer.scale * 0.5)

    def _learning_rate(self) -> float:
        return float(keras.ops.convert_to_numpy(self.optimizer.learning_rate * self.optimizer.scale))

    def _restore_epoch_metrics(self) -> None:
        """Restore loss and metrics of an interrupted epoch, which ``fit`` resets when it starts."""
        if self._interrupted_metrics is not None:
            for variable, array in zip(self._metric_variables(), self._interrupted_metrics, strict=True):
                variable.assign(array)
            self._interrupted_metrics = None

    def _finish_step(self, meter: Meter, logs: dict[str, Any], *, last: bool) -> None:
        """Count a step, check its loss, and save a checkpoint and report progress when due.

        Raise NonFiniteLossError if the loss is not finite.
        """
        now = time.monotonic()
        self.state.step += 1
        self._count_time()
        save_due = not last and now - self._saved >= self.settings.checkpoint_minutes * 60
        report_due = meter.due
        if (save_due or self.state.step % FINITE_CHECK_STEPS == 0) and not np.isfinite(float(logs["loss"])):
            raise NonFiniteLossError
        if (save_due or report_due) and hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()  # within an epoch, JAX does not update Keras' variables
        if save_due:
            self._save()
        if report_due:
            metrics = self._step_metrics(logs)
            meter(self.state.step, self.last_step, format_step_metrics(metrics), metrics)
        if self._budget_spent:
            self.model.stop_training = True

    def _step_metrics(self, logs: dict[str, Any]) -> dict[str, float]:
        start = self._epoch_start
        seconds = max(time.monotonic() - start.time, 1e-9)
        metrics = {
            "epoch": float(self._epoch_number), "loss": float(logs[CROSS_ENTROPY]), "accuracy": float(logs["accuracy"]),
            "learning_rate": self._learning_rate(),
            "images_per_second": (self.state.step - start.step) * self.source.batch_size / seconds,
            "data_wait_fraction": (self.stream.wait_seconds - start.wait_seconds) / seconds,
            "memory_mb": psutil.Process().memory_info().rss / 2**20,
        }
        return metrics | gpu_metrics()

    def _variables(self) -> list[Any]:
        return [*self.model.variables, *self.optimizer.variables, *self._metric_variables()]

    def _metric_variables(self) -> list[Any]:
        return [variable for metric in self.model.metrics for variable in metric.variables]

    def _save(self) -> None:
        """Start to write a checkpoint, when the previous one is written.

        Raise NonFiniteLossError if a variable is not finite: nothing could resume from it.
        """
        arrays = [keras.ops.convert_to_numpy(variable) for variable in self._variables()]
        if not all(np.isfinite(array).all() for array in arrays):
            raise NonFiniteLossError
        self._saved = time.monotonic()
        self.writer.save(arrays, self.result_weights, asdict(self.state))

    def _save_start(self) -> None:
        try:
            self._save()
        except NonFiniteLossError:
            raise QualityError("The initial weights of fine-tuning are not finite. Check the file that model.weights "
                               "names, and train the head again.") from None

    def _restore(self) -> bool:
        """Resume from the latest checkpoint; return False if none is usable."""
        self._saved = time.monotonic()
        self._interrupted_metrics = None
        self.writer.wait()
        checkpoint = self.checkpoints.load()
        if checkpoint is None:
            return False
        arrays, best, values = checkpoint
        try:
            state = TypeAdapter(TrainingState).validate_python(values)
        except ValidationError as error:
            log.warning("%s: the checkpoint's state is damaged, training starts from scratch: %s", self.activity, error)
            return False
        variables = self._variables()
        expected = [tuple(value.shape) for value in [*variables, *self.result_weights]]
        if [np.shape(array) for array in [*arrays, *best]] != expected:
            log.warning("%s: the checkpoint belongs to another network, training starts from scratch", self.activity)
            return False
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
        self.result_weights = best
        self.state = state
        if self.state.step % self.source.steps_per_epoch:
            self._interrupted_metrics = arrays[len(variables) - len(self._metric_variables()) :]
        log.info("%s: resumed step=%d", self.activity, self.state.step)
        return True

    def _restart(self) -> None:
        """Return to the last checkpoint with half the learning rate. Raise QualityError if this happens too often."""
        restarts, seconds = self.state.restarts + 1, self.state.seconds
        if restarts > MAX_RESTARTS or not self._restore():
            raise QualityError(f"The training loss was not finite {restarts} times, although the learning rate was "
                               "halved each time. Lower fine_tune.learning_rate, or check the images for damage.")
        self.state.restarts = restarts
        self.state.seconds = seconds
        self._halve_learning_rate()
        log.warning("%s: loss is not finite, restarting with half the learning rate step=%d", self.activity,
                    self.state.step)
        self._save()
