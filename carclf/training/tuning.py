"""Settings found by trying: the learning rate by a range test, the batch size by time and memory."""

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

LOWEST_RATE, HIGHEST_RATE = 1e-6, 1.0
DIVERGED = 4.0  # times the smallest loss
SMOOTHING = 0.9
SLACK = 0.95  # of the best throughput: a smaller batch that reaches it is taken, since it gives more steps
Compile = Callable[[Any], keras.Model]


def range_test(compile_with: Compile, stream: Iterator[Any], num_steps: int) -> pd.DataFrame:
    """One step at each of rising learning rates until the loss diverges: rate, loss, smoothed (Smith 2017,
    arXiv:1506.01186; smoothed exponentially with the bias taken out).

    ``compile_with`` gives the model compiled with a learning-rate schedule. Its weights are spoiled afterwards.
    """
    growth = (HIGHEST_RATE / LOWEST_RATE) ** (1 / num_steps)
    trained = compile_with(keras.optimizers.schedules.ExponentialDecay(LOWEST_RATE, 1, growth))
    rows: list[dict[str, float]] = []
    average = 0.0
    with Meter("find-lr") as meter:
        for step, (pixels, shares) in zip(range(num_steps), stream, strict=False):
            trained.reset_metrics()
            loss = float(trained.train_on_batch(pixels, shares, return_dict=True)["loss"])
            average = SMOOTHING * average + (1 - SMOOTHING) * loss
            smoothed = average / (1 - SMOOTHING ** (step + 1))
            if not np.isfinite(loss) or (rows and smoothed > DIVERGED * min(row["smoothed"] for row in rows)):
                break
            rows.append({"rate": LOWEST_RATE * growth**step, "loss": loss, "smoothed": smoothed})
            meter(step + 1, num_steps, f"rate {rows[-1]['rate']:.2g}, loss {smoothed:.3f}")
    return pd.DataFrame(rows)


def best_learning_rate(tried: pd.DataFrame) -> float:
    """A tenth of the rate with the smallest smoothed loss; QualityError where no rate lowered the loss."""
    lowest = int(tried["smoothed"].to_numpy().argmin()) if len(tried) else 0
    if lowest == 0:
        raise QualityError("No learning rate lowered the loss: the labels or the pictures do not fit the model. Set "
                           "fine_tune.learning_rate to a number.")
    return float(tried["rate"].to_numpy()[lowest]) / 10


def try_batch_sizes(model: keras.Model, size: tuple[int, int], smallest: int, largest: int) -> pd.DataFrame:
    """Training steps at smallest, twice that and so on while memory lasts: batch_size, images_per_second.

    The model must be compiled; its weights are spoiled afterwards.
    """
    rows: list[dict[str, float]] = []
    random = np.random.default_rng(0)
    batch_size, grown = smallest, 0
    with Meter("find-batch-size") as meter:
        while batch_size <= largest and 2 * grown < psutil.virtual_memory().available:
            before = psutil.Process().memory_info().rss
            pixels = random.integers(0, 256, (batch_size, *size, 3), np.uint8)
            shares = np.eye(model.output_shape[-1], dtype=np.float32)[np.arange(batch_size) % model.output_shape[-1]]
            try:
                rows.append({"batch_size": batch_size, "images_per_second": _speed(model, pixels, shares)})
            except Exception as error:
                if "RESOURCE_EXHAUSTED" not in str(error) and "OOM" not in str(error):  # as both backends say it
                    raise
                break
            grown = max(grown, psutil.Process().memory_info().rss - before)
            meter(batch_size, largest, f"{rows[-1]['images_per_second']:.1f} img/s")
            batch_size *= 2
    return pd.DataFrame(rows)


def _speed(model: keras.Model, pixels: Any, shares: Any) -> float:
    model.train_on_batch(pixels, shares)  # compiles for this shape
    num_steps, started = 2, time.perf_counter()
    for _ in range(num_steps):
        model.train_on_batch(pixels, shares)
    return num_steps * len(pixels) / (time.perf_counter() - started)


def best_batch_size(tried: pd.DataFrame, largest: int) -> int:
    """The smallest batch that is nearly as fast as the fastest up to the largest; QualityError where none was tried."""
    if tried.empty:
        raise QualityError("Not even the smallest batch fits into memory: lower model.image_height and "
                           "model.image_width, or take a smaller backbone.")
    tried = tried[tried["batch_size"] <= largest]
    fast = tried["images_per_second"] >= SLACK * tried["images_per_second"].max()
    return int(tried[fast]["batch_size"].min())


def plot_trials(tried: pd.DataFrame, chosen: float, path: Path) -> None:
    """The first column against the last one, with the chosen value marked, as a PNG."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    x, y = tried.columns[0], tried.columns[-1]
    axes.plot(tried[x], tried[y], marker=".")
    axes.axvline(chosen, linestyle="--", color="black")
    axes.set(xscale="log", xlabel=x, ylabel=y, title=f"chosen: {chosen:.3g}")
    figure.savefig(path, dpi=100)
