"""The fine-tuning loop: whole epochs by ``fit``, validated on averaged weights, saved, and taken up where it stopped.

Everything that decides the next step is in the checkpoint: the model's and the optimizer's variables (the average
and the random generators' states among them), the position in the data, patience and the best weights so far.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import keras
import numpy as np
import pandas as pd
import psutil

from carclf.config import FineTune
from carclf.errors import QualityError, ServiceError, StageWaiting
from carclf.hardware import gpu_metrics
from carclf.pipeline.batches import TrainingSource, batches
from carclf.pipeline.mixing import BatchMixer
from carclf.progress import Meter, log, report_progress
from carclf.training.checkpoints import Arrays, Checkpoints
from carclf.training.compile import build_metric_variables
from carclf.training.feed import BatchSequence, BatchStream, DataWaitCallback, without_autotune
from carclf.training.optimizers import BlockwiseAdamW
from carclf.training.schedules import phases_by_epoch
from carclf.training.validation import ema_weights

FINITE_STEPS = 20  # between two looks at whether the loss is a number
MAX_RESTARTS = 3
Validate = Callable[[keras.Model], tuple[float, float]]


class NonFiniteLossError(Exception):
    """The loss is not finite any more."""


@dataclass
class TrainingState:
    """How far a training is, but for its variables."""

    step: int = 0
    seconds: float = 0.0
    best_accuracy: float = -1.0
    best_epoch: int = 0  # 0: the weights that fine-tuning began with
    best_loss: float = float("inf")
    stale_epochs: int = 0
    restarts: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """One fine-tuning of a model that ``compile_for`` compiled; ``run`` leaves the best weights in it."""

    def __init__(
        self, model: keras.Model, source: TrainingSource, mix: BatchMixer, settings: FineTune, validate: Validate,
        checkpoints: Checkpoints, *, pause_epoch: int = 0,
    ) -> None:
        self.model, self.source, self.mix, self.settings = model, source, mix, settings
        self.pause_epoch = pause_epoch  # after which it stops for now; 0 for none
        self.validate, self.checkpoints = validate, checkpoints
        self.optimizer: BlockwiseAdamW = model.optimizer
        self.stream, self.progress = BatchStream(self._open_at), TrainingState()
        self.best: Arrays = model.get_weights()

    def run(self, start_accuracy: float) -> pd.DataFrame:
        """Train to the end, from the latest checkpoint if there is one; a row of history per epoch."""
        self.progress.best_accuracy = start_accuracy
        build_metric_variables(self.model, self.source)
        if not self._restore():
            self._begin()
        self.counted = time.monotonic()
        with Meter("fine_tune", done=self.progress.step) as meter:
            while not self._ended():
                self._pause()
                try:
                    self._epoch(meter)
                except NonFiniteLossError:
                    self._go_back()
                    self.stream.close()
        self.stream.close()
        if not self.progress.best_epoch:
            log.info("fine_tune: no epoch was better than the weights that it began with: they are kept")
        self.model.set_weights(self.best)
        return pd.DataFrame(self.progress.history)

    def _open_at(self, number: int) -> Iterator[Any]:
        return batches(self.source, self.source.batch_size, start_batch=number,
                       num_workers=self.settings.num_workers, mix=self.mix)

    def _pause(self) -> None:
        """NotYet where this is the end for now: the checkpoint is at an epoch's end, and nothing is lost."""
        epoch = self.progress.step // self.source.steps_per_epoch
        if self.pause_epoch and epoch >= self.pause_epoch:
            self.stream.close()
            raise StageWaiting(f"paused after epoch {epoch} of {self.settings.epochs}",
                         metrics={"epoch": epoch, "val_accuracy": self.progress.best_accuracy})

    def count_time(self) -> None:
        """Note the time since this was called last: all that the budget is for, validation and saving too."""
        now = time.monotonic()
        self.progress.seconds += now - self.counted
        self.counted = now

    def _ended(self) -> bool:
        own, progress = self.settings, self.progress
        if own.budget_minutes and progress.seconds > own.budget_minutes * 60:
            log.info("fine_tune: the budget of %g minutes is spent", own.budget_minutes)
            return True
        if progress.stale_epochs >= own.patience:
            log.info("fine_tune: no better validation accuracy for %d epochs", progress.stale_epochs)
            return True
        return progress.step >= self.source.steps_per_epoch * own.epochs

    def _epoch(self, meter: Meter) -> None:
        """The rest of the present epoch, its validation, and a checkpoint."""
        per_epoch, begin = self.source.steps_per_epoch, self.progress.step
        self.epoch_started, self.epoch_began, self.epoch_waited = time.monotonic(), begin, self.stream.wait_seconds
        feed = BatchSequence(self.stream, begin, per_epoch - begin % per_epoch)
        callbacks = [DataWaitCallback(feed), steps := _Steps(self, meter, feed)]
        with self.stream.own_errors():
            self.model.fit(without_autotune(feed), epochs=1, verbose=0, shuffle=False, callbacks=callbacks)
        seconds, waited = time.monotonic() - self.epoch_started, self.stream.wait_seconds - self.epoch_waited
        logs = {name: float(value) for name, value in steps.logs.items()}
        with ema_weights(self.model):
            loss, accuracy = self.validate(self.model)
            # the last step may have spoiled the weights, which no loss of training has seen yet
            if not np.isfinite([logs["loss"], loss]).all():
                raise NonFiniteLossError
            self._note(accuracy, loss)
        self.progress.history.append({
            "epoch": self._epoch_number(), "step": self.progress.step, **logs, "val_loss": loss,
            "val_accuracy": accuracy, "learning_rate": self._rate(), "seconds": round(seconds, 2),
            "images_per_second": round((self.progress.step - begin) * self.source.batch_size / seconds, 2),
            "data_wait_fraction": round(waited / seconds, 4),
        })
        log.info("fine_tune: epoch %d, loss %.4f, val_loss %.4f, val_accuracy %.4f, %.1f img/s, data wait %.1f%%",
                 self._epoch_number(), logs["loss"], loss, accuracy,
                 self.progress.history[-1]["images_per_second"], 100 * waited / seconds)
        report_progress("fine_tune", self.progress.step, per_epoch * self.settings.epochs, self.progress.history[-1])
        self.count_time()
        self.save()

    def _note(self, accuracy: float, loss: float) -> None:
        """Keep the best weights, the earlier of equals; lower the rate of the plateau schedule.

        Patience is for the last phase: before it blocks have yet to join, and pictures to grow.
        """
        progress, own = self.progress, self.settings
        phase = phases_by_epoch(own.epochs, own.num_phases)[self._epoch_number() - 1]
        if accuracy > progress.best_accuracy:
            progress.best_accuracy, progress.stale_epochs = accuracy, 0
            progress.best_epoch = self._epoch_number()
            self.best = self.model.get_weights()
        elif phase == own.num_phases - 1:
            progress.stale_epochs += 1
        if own.schedule == "plateau" and loss >= progress.best_loss:
            self.optimizer.scale.assign(self.optimizer.scale * 0.5)
        progress.best_loss = min(loss, progress.best_loss)

    def step_metrics(self, logs: Any) -> dict[str, float]:
        """What is measured within an epoch."""
        seconds = max(time.monotonic() - self.epoch_started, 1e-9)
        found = {
            "epoch": float(self._epoch_number()), "loss": float(logs["loss"]), "accuracy": float(logs["accuracy"]),
            "learning_rate": self._rate(),
            "images_per_second": (self.progress.step - self.epoch_began) * self.source.batch_size / seconds,
            "data_wait_fraction": (self.stream.wait_seconds - self.epoch_waited) / seconds,
            "memory_mb": psutil.Process().memory_info().rss / 2**20,
        }
        return found | gpu_metrics()

    def _epoch_number(self) -> int:
        """Of the epoch that the last step was in, from 1; the budget may end it early."""
        return -(-self.progress.step // self.source.steps_per_epoch)

    def _rate(self) -> float:
        return float(keras.ops.convert_to_numpy(self.optimizer.learning_rate * self.optimizer.scale))

    def _variables(self) -> list[Any]:
        return [*self.model.variables, *self.optimizer.variables, *self.metric_variables()]

    def metric_variables(self) -> list[Any]:
        """The variables of loss and metrics."""
        return [variable for metric in self.model.metrics for variable in metric.variables]

    def _begin(self) -> None:
        try:
            self.save()
        except NonFiniteLossError:
            raise QualityError("The weights that fine-tuning begins with hold no numbers: look at the file that "
                               "model.weights names, and train the head again.") from None

    def save(self) -> None:
        """Write a checkpoint of everything that decides the next step; NotANumber where that is spoiled."""
        arrays = [keras.ops.convert_to_numpy(variable) for variable in self._variables()]
        if not all(np.isfinite(array).all() for array in arrays):
            raise NonFiniteLossError  # a checkpoint of these would be no way back
        self.saved = time.monotonic()
        try:
            self.checkpoints.save([*arrays, *self.best], asdict(self.progress))
        except ServiceError as error:  # hours of training are not ended by a store that is away for a minute
            log.warning("fine_tune: no checkpoint at step %d, training goes on: %s", self.progress.step, error)

    def _restore(self) -> bool:
        """Take up the latest checkpoint; False where there is none that fits."""
        self.saved, self.resumed = time.monotonic(), None
        found = self.checkpoints.load()
        variables = self._variables()
        if not found:
            return False
        if [np.shape(a) for a in found[0]] != [tuple(v.shape) for v in [*variables, *self.best]]:
            log.warning("fine_tune: the checkpoint is of another network: training starts anew")
            return False
        arrays, state = found
        for variable, array in zip(variables, arrays, strict=False):
            variable.assign(array)
        self.best, self.progress = arrays[len(variables):], TrainingState(**state)
        if self.progress.step % self.source.steps_per_epoch:
            # fit() resets the metrics when it begins: the rest of a broken epoch gets them back.
            self.resumed = arrays[len(variables) - len(self.metric_variables()) : len(variables)]
        log.info("fine_tune: taken up at step %d", self.progress.step)
        return True

    def _go_back(self) -> None:
        """To the last checkpoint with half the learning rate; QualityError after too many times."""
        restarts, seconds = self.progress.restarts + 1, self.progress.seconds
        if restarts > MAX_RESTARTS or not self._restore():
            raise QualityError(
                f"The training loss was not a number {restarts} times, at lower and lower learning rates. Lower "
                "fine_tune.learning_rate, or look for damaged pictures."
            )
        self.progress.restarts, self.progress.seconds = restarts, seconds
        self.optimizer.scale.assign(self.optimizer.scale * 0.5)
        log.warning("fine_tune: the loss is not a number: back to step %d with the learning rate halved",
                    self.progress.step)
        self.save()


class _Steps(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
    """Counts steps, tells the meter, and saves every few minutes."""

    def __init__(self, trainer: Trainer, meter: Meter, feed: BatchSequence) -> None:
        super().__init__()
        self.trainer, self.meter, self.feed = trainer, meter, feed
        self.logs: Any = {}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self.trainer.resumed is not None:
            for variable, array in zip(self.trainer.metric_variables(), self.trainer.resumed, strict=True):
                variable.assign(array)
            self.trainer.resumed = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        trainer, now = self.trainer, time.monotonic()
        progress, own = trainer.progress, trainer.settings
        progress.step += 1
        trainer.count_time()
        self.logs = logs
        ended = batch + 1 == len(self.feed)
        due, shown = not ended and now - trainer.saved >= own.checkpoint_minutes * 60, self.meter.due
        if (due or progress.step % FINITE_STEPS == 0) and not np.isfinite(float(logs["loss"])):
            raise NonFiniteLossError
        if due or shown:  # JAX keeps the variables' values to itself within an epoch
            getattr(trainer.model, "jax_state_sync", lambda: None)()
        if due:
            trainer.save()
        if shown:
            step_metrics = trainer.step_metrics(logs)
            self.meter(progress.step, trainer.source.steps_per_epoch * own.epochs, _words(step_metrics), step_metrics)
        if own.budget_minutes and progress.seconds > own.budget_minutes * 60:
            trainer.model.stop_training = True


def _words(step_metrics: dict[str, float]) -> str:
    """What a line of progress says beside the steps."""
    on_gpu = f", GPU {step_metrics['gpu_memory_mb']:.0f} MB" if "gpu_memory_mb" in step_metrics else ""
    on_gpu += f" at {100 * step_metrics['gpu_utilization']:.0f}%" if "gpu_utilization" in step_metrics else ""
    return (f"epoch {step_metrics['epoch']:.0f}, loss {step_metrics['loss']:.3f}, accuracy {step_metrics['accuracy']:.3f}, "
            f"rate {step_metrics['learning_rate']:.2g}, {step_metrics['images_per_second']:.1f} img/s, "
            f"data wait {100 * step_metrics['data_wait_fraction']:.1f}%, {step_metrics['memory_mb']:.0f} MB{on_gpu}")
