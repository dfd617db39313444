"""Choose the learning rate by a range test, and the batch size by throughput and memory."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import psutil
from matplotlib.figure import Figure

from carclf.errors import QualityError
from carclf.progress import Meter

LOWEST_RATE = 1e-6
HIGHEST_RATE = 1.0
DIVERGED = 4.0  # times the smallest loss
SMOOTHING = 0.9
THROUGHPUT_SLACK = 0.95  # a smaller batch with this fraction of the best throughput is preferred: it gives more steps
NUM_TIMED_STEPS = 2
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "OOM")  # in the error messages of both backends
CompileWith = Callable[[Any], keras.Model]


def range_test(compile_with: CompileWith, stream: Iterator[Any], num_steps: int) -> pd.DataFrame:
    """Take one training step at each of rising learning rates until the loss diverges (Smith 2017, arXiv:1506.01186).

    ``compile_with`` returns the model compiled with a learning-rate schedule. The test changes its weights. Return one
    row per step: learning_rate, loss, and smoothed_loss, a bias-corrected exponential average.
    """
    growth = (HIGHEST_RATE / LOWEST_RATE) ** (1 / num_steps)
    trained = compile_with(keras.optimizers.schedules.ExponentialDecay(LOWEST_RATE, 1, growth))
    rows: list[dict[str, float]] = []
    average = 0.0
    with Meter("find-lr") as meter:
        for step, (pixels, targets) in zip(range(num_steps), stream, strict=False):
            trained.reset_metrics()
            loss = float(trained.train_on_batch(pixels, targets, return_dict=True)["loss"])
            average = SMOOTHING * average + (1 - SMOOTHING) * loss
            smoothed = average / (1 - SMOOTHING ** (step + 1))
            if not np.isfinite(loss) or (rows and smoothed > DIVERGED * min(row["smoothed_loss"] for row in rows)):
                break
            rate = LOWEST_RATE * growth**step
            rows.append({"learning_rate": rate, "loss": loss, "smoothed_loss": smoothed})
            meter(step + 1, num_steps, f"learning rate {rate:.2g}, loss {smoothed:.3f}")
    return pd.DataFrame(rows)


def best_learning_rate(trials: pd.DataFrame) -> float:
    """Return a tenth of the rate with the smallest smoothed loss. Raise QualityError if no rate lowered the loss."""
    lowest = int(trials["smoothed_loss"].to_numpy().argmin()) if len(trials) else 0
    if lowest == 0:
        raise QualityError("No learning rate lowered the loss, so the labels or the images do not fit the model. Check "
                           "them, and keep fine_tune.learning_rate=auto.")
    return float(trials["learning_rate"].to_numpy()[lowest]) / 10


def try_batch_sizes(model: keras.Model, size: tuple[int, int], smallest: int, largest: int) -> pd.DataFrame:
    """Time training steps of a compiled model, doubling the batch size while it fits into memory.

    The steps change the model's weights. ``size`` is the images' height and width. Return one row per batch size:
    batch_size and images_per_second.
    """
    rows: list[dict[str, float]] = []
    random = np.random.default_rng(0)
    batch_size = smallest
    growth = 0  # largest memory increase caused by one batch size, in bytes
    with Meter("find-batch-size") as meter:
        while batch_size <= largest and 2 * growth < psutil.virtual_memory().available:
            before = _resident_bytes()
            pixels = random.integers(0, 256, (batch_size, *size, 3), np.uint8)
            try:
                speed = _images_per_second(model, pixels)
            except Exception as error:
                if not any(message in str(error) for message in OUT_OF_MEMORY):
                    raise
                break
            rows.append({"batch_size": batch_size, "images_per_second": speed})
            growth = max(growth, _resident_bytes() - before)
            meter(batch_size, largest, f"{speed:.1f} img/s")
            batch_size *= 2
    return pd.DataFrame(rows)


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def _images_per_second(model: keras.Model, pixels: np.ndarray[Any, Any]) -> float:
    num_classes = model.output_shape[-1]
    targets = np.eye(num_classes, dtype=np.float32)[np.arange(len(pixels)) % num_classes]
    model.train_on_batch(pixels, targets)  # compiles for this shape
    started = time.perf_counter()
    for _ in range(NUM_TIMED_STEPS):
        model.train_on_batch(pixels, targets)
    return NUM_TIMED_STEPS * len(pixels) / (time.perf_counter() - started)


def best_batch_size(trials: pd.DataFrame, largest: int) -> int:
    """Return the smallest batch size, up to the largest, that is nearly as fast as the fastest.

    Raise QualityError if the table is empty, because no batch fits into memory.
    """
    if trials.empty:
        raise QualityError("Not even the smallest batch fits into memory. Lower model.image_height and "
                           "model.image_width, or set model.backbone to a smaller one.")
    useful = trials[trials["batch_size"] <= largest]
    fast = useful["images_per_second"] >= THROUGHPUT_SLACK * useful["images_per_second"].max()
    return int(useful[fast]["batch_size"].min())


def plot_trials(trials: pd.DataFrame, best: float, path: Path) -> None:
    """Plot the last column against the first, with the best value marked, as a PNG."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    x, y = trials.columns[0], trials.columns[-1]
    axes.plot(trials[x], trials[y], marker=".")
    axes.axvline(best, linestyle="--", color="black")
    axes.set(xscale="log", xlabel=x, ylabel=y, title=f"best: {best:.3g}")
    figure.savefig(path, dpi=100)
