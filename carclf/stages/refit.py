"""Train a promoted model again, also on the validation images, for the same number of steps."""

from pathlib import Path

from carclf.artifacts import Archive, Metrics, Model, Provenance, RefittedModel, Split, StageContext, build
from carclf.champion import record_refit, require_promoted
from carclf.errors import ConfigError
from carclf.training.checkpoints import Checkpoints

VERSION = 2


def refit(
    archive: Archive, split: Split, start: Model, measured: Model, context: StageContext
) -> tuple[RefittedModel, bool]:
    """Return the model of train_head and fine_tune, trained again on the training and the validation images.

    The champion's history then names it. It is used for predictions, but no image that it was not trained on is left
    to measure it: the evaluation of the measured model applies to it. If the process is killed, the next call resumes
    from the last checkpoint. Raise ConfigError if the measured model was never promoted, or is an ensemble.
    """
    store = context.store
    require_promoted(store, measured.key)
    if measured.is_ensemble:
        raise ConfigError(f"The model {measured.key} is an ensemble, which cannot be refitted. Set "
                          "fine_tune.refit=false.")
    inputs = {"archive": archive.key, "split": split.key, "model": start.key, "measured": measured.key}
    provenance = Provenance(VERSION, inputs, measured.settings)  # the settings of this run, which trained the model
    checkpoints = Checkpoints(store, provenance.key(RefittedModel))

    def make(folder: Path) -> Metrics:
        from carclf.training.fine_tuning import FineTuning
        from carclf.training.refitting import Refitting

        fine_tuning = FineTuning(archive, split, start, context, activity="refit")
        return Refitting(fine_tuning, measured).write_model(folder, checkpoints)

    refitted, reused = build(RefittedModel, make, provenance, store)
    checkpoints.clear()
    record_refit(store, refitted)
    return refitted, reused
