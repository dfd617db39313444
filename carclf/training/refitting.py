"""Train the head and fine-tune again, also on the validation images, for as many steps as a measured model.

Nothing is held out: no epoch is selected, and no metric of a validation image is computed.
"""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from carclf.artifacts import Metrics, Model
from carclf.dataset.champion_split import TRAIN, VAL
from carclf.progress import log
from carclf.training.checkpoints import Checkpoints
from carclf.training.compile import make_deterministic
from carclf.training.fine_tuning import FineTuning
from carclf.training.heads import build_head, fit_to_end
from carclf.training.run_features import RunFeatures

REFIT_SUBSETS = (TRAIN, VAL)


class Refitting:
    """The training of a measured model, repeated on the training and the validation images.

    ``fine_tuning`` is that of the measured model. Settings that were ``auto``, or chosen by trials, have the values of
    the measured model.
    """

    def __init__(self, fine_tuning: FineTuning, measured: Model) -> None:
        self.fine_tuning = fine_tuning
        self.measured = measured
        self.start = fine_tuning.start
        self.config = fine_tuning.config

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The split's rows of the training and the validation images."""
        return pd.concat([self.fine_tuning.rows[subset] for subset in REFIT_SUBSETS], ignore_index=True)

    def write_model(self, folder: Path, checkpoints: Checkpoints) -> Metrics:
        """Train, write the files of the model to the folder, and return its metrics."""
        head = self._fit_head()
        history = pd.DataFrame()
        with self.fine_tuning.load_network() as network:
            network.get_layer("head").set_weights(head.get_weights())
            if self.config.fine_tune.epochs:
                history = self._train(network, checkpoints)
        shared = self.fine_tuning.write_files(network, history, self.rows, folder)
        num_steps = int(history["step"].iloc[-1]) if len(history) else 0
        return shared | {"measured": self.measured.key, "num_images": len(self.rows), "num_steps": num_steps}

    def _fit_head(self) -> keras.Model:
        """Return a head for the images, trained for as many steps as that of train_head, up to a rounded epoch.

        train_head has computed the features, except for the augmented views of the validation images.
        """
        start, config = self.start, self.config
        features = RunFeatures(self.fine_tuning.archive, self.fine_tuning.split, self.fine_tuning.context,
                               start.settings, start, augmented=REFIT_SUBSETS)
        views = np.concatenate([features.by_subset[subset] for subset in REFIT_SUBSETS], axis=1)
        labels = np.concatenate([features.rows[subset]["class_index"].to_numpy() for subset in REFIT_SUBSETS])
        fraction = len(features.rows[TRAIN]) / len(labels)
        settings = config.head.model_copy(update={
            "epochs": max(1, round(config.head.epochs * fraction)),
            "learning_rate": start.number("learning_rate"), "weight_decay": start.number("weight_decay"),
        })
        log.info("refit: training the head images=%d epochs=%d", len(labels), settings.epochs)
        make_deterministic(config.seed, kernels=config.model.deterministic)
        head = build_head(views.shape[2], int(start.number("num_classes")), config.model)
        fit_to_end(head, (views.reshape(-1, views.shape[2]), np.tile(labels, len(views))), settings)
        return head

    def _train(self, network: keras.Model, checkpoints: Checkpoints) -> pd.DataFrame:
        """Fine-tune the network for the steps of the result of the measured training; return the history.

        An epoch has as many steps as one of the measured training and consists of a random part of the images, so that
        learning rates, phases and image sizes are the same functions of the step.
        """
        measured, fine_tuning = self.measured, self.fine_tuning
        settings = self.config.fine_tune.model_copy(update={
            "batch_size": int(measured.number("batch_size")), "learning_rate": measured.number("learning_rate"),
            "budget_minutes": 0.0,
        })
        steps_per_epoch = len(fine_tuning.training_rows) // settings.batch_size
        source = fine_tuning.training_source(settings, self.rows, steps_per_epoch)
        epochs = self._measured_epochs()
        rates = replay_rates(epochs, settings.learning_rate) if settings.schedule == "plateau" else None
        options = replace(fine_tuning.trainer_options(settings, self.rows, source.batch_size),
                          last_step=int(epochs["step"].iloc[-1]))
        trainer, _ = fine_tuning.build_trainer(network, source, checkpoints, options, rates)
        return trainer.run()

    def _measured_epochs(self) -> pd.DataFrame:
        """Return the rows of the measured training's history up to its result: with plateau, the selected epoch."""
        history = pd.read_csv(self.measured.path(self.fine_tuning.store, "history.csv"))
        return history.head(int(self.measured.number("epoch")))


def replay_rates(epochs: pd.DataFrame, initial: float) -> Any:
    """Return the measured model's learning rates as a schedule: without validation, nothing else lowers them."""
    boundaries = [int(step) - 1 for step in epochs["step"]]
    rates = [initial, *map(float, epochs["learning_rate"])]
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates)
