"""Train the backbone's upper blocks with a low learning rate."""

from pathlib import Path
from typing import TYPE_CHECKING

from carclf.artifacts import Archive, Metrics, Model, Provenance, Split, StageContext, build
from carclf.training.checkpoints import Checkpoints
from carclf.training.soft_targets import soft_targets
from carclf.training.warm_start import fine_tune_settings

if TYPE_CHECKING:
    import pandas as pd

VERSION = 9


def fine_tune(
    archive: Archive, split: Split, start: Model, context: StageContext, *, pause_epoch: int = 0
) -> tuple[Model, bool]:
    """Return the model of train_head with its upper blocks trained.

    With the cosine schedule it has the averaged weights of the last step; with the plateau schedule those of the epoch
    that is best on held-out training images. No validation image selects anything.

    If the process is killed, the next call resumes from the last checkpoint. Raise StageWaiting if training paused
    after ``pause_epoch``; the next call continues.
    """
    store = context.store
    inputs = {"archive": archive.key, "split": split.key, "model": start.key}
    if context.config.fine_tune.teacher:
        inputs["soft_targets"] = soft_targets(archive, split, context).key
    provenance = Provenance(VERSION, inputs, fine_tune_settings(context.config, context.salt))
    checkpoints = Checkpoints(store, provenance.key(Model))

    def make(folder: Path) -> Metrics:
        from carclf.training.fine_tuning import FineTuning

        return FineTuning(archive, split, start, context).write_model(folder, checkpoints, pause_epoch)

    model, reused = build(Model, make, provenance, store)
    checkpoints.clear()
    return model, reused


def find_setting(
    archive: Archive, split: Split, start: Model, context: StageContext, name: str
) -> "tuple[pd.DataFrame, float]":
    """Try values of ``learning_rate`` or ``batch_size`` as fine-tuning would; return the trials and the best value.

    Every batch size that fits into memory is tried, even if it is too large for the number of images.
    """
    from carclf.training.fine_tuning import FineTuning

    fine_tuning = FineTuning(archive, split, start, context)
    settings = context.config.fine_tune
    with fine_tuning.load_network() as network:
        if name == "batch_size":
            return fine_tuning.find_batch_size(network, settings, try_all=True)
        return fine_tuning.find_learning_rate(network, settings)
