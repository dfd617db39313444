"""The head's settings chosen on held-out training pictures, never on the validation ones."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from carclf import config
from carclf.progress import log
from carclf.training.heads import fit_head

RATE_DECADES, DECAY_DECADES = (-0.5, 0.5), (-1.0, 2.0)  # around the given values, as powers of ten
HELD_OUT = 5  # every fifth group


def search_settings(
    build: Callable[[], keras.Model], views: npt.NDArray[np.float32], labels: npt.NDArray[Any],
    groups: npt.NDArray[Any], settings: config.Head, seed: int,
) -> tuple[config.Head, pd.DataFrame]:
    """The trial with the smallest loss on held-out plain pictures, and a row for each trial.

    ``views`` are features (views, rows, features) of the same pictures, the plain ones first; pictures of one group
    (copies) are on one side. ``build`` makes the same fresh head each time, so that trials differ in their settings
    alone.
    """
    held_out = is_held_out(groups)
    train = views[:, ~held_out].reshape(-1, views.shape[2]), np.tile(labels[~held_out], len(views))
    rows: list[dict[str, float]] = []
    tried = sample_trials(settings, seed)
    for trial in tried:
        history, accuracy, _ = fit_head(build(), train, (views[0][held_out], labels[held_out]), trial)
        rows.append({"learning_rate": trial.learning_rate, "weight_decay": trial.weight_decay,
                     "held_out_loss": float(history["val_loss"].min()), "held_out_accuracy": accuracy})
        log.info("train_head: trial %d/%d, learning rate %.2g, weight decay %.2g: held-out loss %.4f, accuracy %.4f",
                 len(rows), len(tried), *rows[-1].values())
    # a trial that diverged has no loss
    losses = [row["held_out_loss"] if np.isfinite(row["held_out_loss"]) else np.inf for row in rows]
    return tried[int(np.argmin(losses))], pd.DataFrame(rows)


def is_held_out(groups: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which pictures are held out: those of every fifth group, whole groups."""
    return np.asarray(np.unique(groups, return_inverse=True)[1] % HELD_OUT == 0)


def sample_trials(settings: config.Head, seed: int) -> list[config.Head]:
    """The given settings, then ``num_trials - 1`` with a learning rate and a weight decay drawn around theirs."""
    random = np.random.default_rng(seed)
    factors = [(10 ** random.uniform(*RATE_DECADES), 10 ** random.uniform(*DECAY_DECADES))
               for _ in range(settings.num_trials - 1)]
    drawn = [{"learning_rate": min(1.0, settings.learning_rate * rate),
              "weight_decay": min(1.0, settings.weight_decay * decay)} for rate, decay in factors]
    return [settings, *(settings.model_copy(update=values) for values in drawn)]
