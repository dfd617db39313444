"""Train the head and fine-tune again, also on the validation images, for as many steps as a measured model.

Nothing is held out: no epoch is selected, and no metric of a validation image is computed.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from carclf.artifacts import Metrics, Model
from carclf.dataset.archives import extract_images
from carclf.dataset.champion_split import TRAIN, VAL
from carclf.progress import log
from carclf.training.checkpoints import Checkpoints
from carclf.training.compile import make_deterministic
from carclf.training.fine_tuning import FineTuning
from carclf.training.heads import build_head, fit_to_end
from carclf.training.run_features import RunFeatures
from carclf.training.saving import save_model, write_reference_logits
from carclf.training.schedules import compile_for_fine_tuning
from carclf.training.trainer import Trainer, TrainerOptions
from carclf.training.validation import Objective

SUBSETS = (TRAIN, VAL)


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
        return pd.concat([self.fine_tuning.rows[subset] for subset in SUBSETS], ignore_index=True)

    def write_model(self, folder: Path, checkpoints: Checkpoints) -> Metrics:
        """Train, write the files of the model to the folder, and return its metrics."""
        start = self.start
        head = self._fit_head()
        history = pd.DataFrame()
        with self.fine_tuning.load_network() as network:
            network.get_layer("head").set_weights(head.get_weights())
            if self.config.fine_tune.epochs:
                history = self._train(network, checkpoints)
        images = extract_images(self.fine_tuning.archive, self.fine_tuning.store)
        write_reference_logits(network, self.rows, images, start.image_size, folder)
        save_model(network, history, folder)
        inherited = {name: start.metric(name) for name in ("class_names", "num_classes", "image_height", "image_width")}
        num_steps = int(history["step"].iloc[-1]) if len(history) else 0
        return {"measured": self.measured.key, "num_images": len(self.rows), "num_steps": num_steps, **inherited}

    def _fit_head(self) -> keras.Model:
        """Return a head for the images, trained for as many steps as that of train_head, up to a rounded epoch.

        train_head has computed the features, except for the augmented views of the validation images.
        """
        start, config = self.start, self.config
        features = RunFeatures(self.fine_tuning.archive, self.fine_tuning.split, self.fine_tuning.context,
                               start.settings, start, augmented=SUBSETS)
        views = np.concatenate([features.by_subset[subset] for subset in SUBSETS], axis=1)
        labels = np.concatenate([features.rows[subset]["class_index"].to_numpy() for subset in SUBSETS])
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
        """Fine-tune the network; return the history.

        An epoch has as many steps as one of the measured model, so that the schedules are the same. It consists of a
        random part of the images.
        """
        measured = self.measured
        epochs = self._measured_epochs()
        if epochs.empty:
            return epochs
        settings = self.config.fine_tune.model_copy(update={
            "epochs": len(epochs), "batch_size": int(measured.number("batch_size")),
            "learning_rate": measured.number("learning_rate"), "budget_minutes": 0.0,
        })
        steps_per_epoch = -(-int(epochs["step"].iloc[-1]) // len(epochs))  # the budget may have cut the last epoch
        source = self.fine_tuning.training_source(settings, self.rows, steps_per_epoch)
        rates = replay_rates(epochs, settings.learning_rate) if settings.schedule == "plateau" else None
        trained, num_blocks = compile_for_fine_tuning(settings, network, source, rates)
        log.info("refit: starting blocks=%d images=%d steps=%d", num_blocks, len(source.examples),
                 len(epochs) * steps_per_epoch)
        statistics = self.fine_tuning.statistics(settings, self.rows, source.batch_size)
        options = TrainerOptions(settings, self.fine_tuning.mixer(settings),
                                 Objective.from_split(self.fine_tuning.split), recompute_statistics=statistics)
        return Trainer(trained, source, None, checkpoints, options).run()

    def _measured_epochs(self) -> pd.DataFrame:
        """Return the rows of the measured model's history that determine the number of steps.

        With the plateau schedule these are the epochs up to the selected one. The cosine schedule needs all its steps;
        if the measured training ended early, the schedule is shorter.
        """
        history = pd.read_csv(self.measured.path(self.fine_tuning.store, "history.csv"))
        if self.config.fine_tune.schedule == "cosine":
            return history
        return history.head(int(self.measured.number("epoch")))


def replay_rates(epochs: pd.DataFrame, initial: float) -> Any:
    """Return the measured model's learning rates as a schedule: without validation, nothing else lowers them."""
    boundaries = [int(step) - 1 for step in epochs["step"]]
    rates = [initial, *map(float, epochs["learning_rate"])]
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates)
