"""Choose the head's settings on held-out training images, never on the validation images."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from carclf.config import Head
from carclf.progress import log
from carclf.training.heads import ACCURACY, fit_head
from carclf.training.validation import Objective

# Ranges around the given values, as powers of ten.
LEARNING_RATE_DECADES = (-0.5, 0.5)
WEIGHT_DECAY_DECADES = (-1.0, 2.0)
HELD_OUT_EVERY = 5  # one group in five is held out to choose the settings


@dataclass(frozen=True)
class HeadData:
    """Features of the training images, (views, rows, features), the plain view first; labels and groups by row.

    The images of a group depend on each other, as copies do, and are held out together.
    """

    views: npt.NDArray[np.float32]
    labels: npt.NDArray[np.integer]
    groups: npt.NDArray[np.generic]


def search_settings(
    build: Callable[[], keras.Model], data: HeadData, settings: Head, seed: int, objective: Objective = ACCURACY
) -> tuple[Head, pd.DataFrame]:
    """Return the settings that are best on held-out plain images, and a table with one row per trial.

    The metric decides. Accuracy has too few values on a few images, so the loss decides instead of it, and instead of a
    metric that the held-out images do not define. If all images are in one group, the given settings are returned.
    ``build`` must return the same new head every time, so that trials differ in their settings only.
    """
    views, labels = data.views, data.labels
    held_out = is_held_out(data.groups)
    if held_out.all():
        log.warning("train_head: no trials: all training images are in one group")
        return settings, pd.DataFrame()
    if not objective.metric.is_defined(labels[held_out]):
        objective = ACCURACY
    train = views[:, ~held_out].reshape(-1, views.shape[2]), np.tile(labels[~held_out], len(views))
    val = views[0][held_out], labels[held_out]
    rows: list[dict[str, float]] = []
    trials = sample_trials(settings, seed)
    for trial in trials:
        fitted = fit_head(build(), train, val, trial, objective)
        rows.append({"learning_rate": trial.learning_rate, "weight_decay": trial.weight_decay,
                     "held_out_loss": fitted.validation.loss, "held_out_accuracy": fitted.validation.accuracy,
                     "held_out_metric": fitted.validation.metric})
        log.info("train_head: trial %d/%d learning_rate=%.2g weight_decay=%.2g held_out_loss=%.4f "
                 "held_out_accuracy=%.4f held_out_metric=%.4f", len(rows), len(trials), *rows[-1].values())
    table = pd.DataFrame(rows)
    return trials[_best_trial(table, objective)], table


def _best_trial(trials: pd.DataFrame, objective: Objective) -> int:
    """Return the position of the best trial. The values of a trial that diverged are NaN."""
    if objective.metric.is_accuracy:
        return int(trials["held_out_loss"].fillna(np.inf).argmin())
    sign = -1 if objective.metric.higher_is_better else 1
    return int((sign * trials["held_out_metric"]).fillna(np.inf).argmin())


def is_held_out(
    groups: npt.NDArray[np.generic], every: int = HELD_OUT_EVERY, seed: int = 0
) -> npt.NDArray[np.bool_]:
    """Return a mask of the held-out rows: those of one group in ``every``; the seed determines the first one."""
    names, numbers = np.unique(groups, return_inverse=True)
    return np.asarray(numbers % every == seed % min(every, len(names)))


def sample_trials(settings: Head, seed: int) -> list[Head]:
    """Return the given settings and ``num_trials - 1`` random ones with a learning rate and weight decay near them."""
    random = np.random.default_rng(seed)
    trials = [settings]
    for _ in range(settings.num_trials - 1):
        rate = settings.learning_rate * 10 ** random.uniform(*LEARNING_RATE_DECADES)
        decay = settings.weight_decay * 10 ** random.uniform(*WEIGHT_DECAY_DECADES)
        trials.append(settings.model_copy(update={"learning_rate": min(1.0, rate), "weight_decay": min(1.0, decay)}))
    return trials
