"""Distillation: the class probabilities of a teacher as a part of the targets of a training.

Hinton, Vinyals & Dean 2015, Distilling the knowledge in a neural network, arXiv:1503.02531.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from carclf.artifacts import Archive, Metrics, Model, Provenance, SoftTargets, Split, StageContext, build
from carclf.errors import ConfigError, DataError, NotFoundError
from carclf.progress import Meter
from carclf.services.storage import Store
from carclf.stats import probability_columns

if TYPE_CHECKING:
    import keras
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from carclf.pipeline.batches import LetterboxedSource

VERSION = 1
BATCH_SIZE = 32
FILE = "soft_targets.parquet"


def soft_targets(archive: Archive, split: Split, context: StageContext) -> SoftTargets:
    """Return the probabilities that the model ``fine_tune.teacher`` predicts for the images of a split.

    They cover the training images, and the validation images for a refit.

    Raises:
        NotFoundError: The store has no such model.
        ConfigError: The teacher does not know a class of the data.
        DataError: The teacher was trained on validation images or labeled test images of the split.
    """
    store, key = context.store, context.config.fine_tune.teacher
    if (teacher := Model.find(store, key)) is None:
        raise NotFoundError(f"fine_tune.teacher: there is no model {key!r} in {store.url}. Set the name of a folder in "
                            "models/, such as the champion's, which carclf champion show prints. A refitted model "
                            "cannot be a teacher, because it was trained on validation images.")

    def make(folder: Path) -> Metrics:
        _require_fit(teacher, split, store)  # the inputs determine the result, so once is enough
        return _write_soft_targets(folder, archive, split, teacher, store)

    inputs = {"archive": archive.key, "split": split.key, "model": teacher.key}
    return build(SoftTargets, make, Provenance(VERSION, inputs, {"salt": context.salt}), store)[0]


def mixed_targets(
    rows: "pd.DataFrame", targets: SoftTargets, class_names: list[str], weight: float, store: Store
) -> "npt.NDArray[np.float32]":
    """Return the targets of a split's rows, shape (rows, classes): 1 - ``weight`` for the label, the rest softly."""
    import numpy as np

    table = targets.table(store, FILE).set_index("path")[probability_columns(class_names)]
    labels = np.eye(len(class_names), dtype=np.float32)[rows["class_index"].to_numpy()]
    soft = table.loc[rows["path"]].to_numpy(np.float32)
    return np.asarray(labels * np.float32(1 - weight) + soft * np.float32(weight))


def _require_fit(teacher: Model, split: Split, store: Store) -> None:
    """Raise ConfigError or DataError if the teacher does not fit the split."""
    if unknown := sorted(set(split.class_names) - set(teacher.class_names)):
        raise ConfigError(f"fine_tune.teacher: the model {teacher.key} does not know the class {unknown[0]!r}, which "
                          "the data have. Set a teacher that was trained on all classes of the data.")
    if num_leaked := _num_leaked(teacher, split, store):
        raise DataError(f"fine_tune.teacher: the model {teacher.key} was trained on {num_leaked} validation images or "
                        "labeled test images of this run, so that its student could not be measured on them. Set a "
                        "teacher from a run with the same split: the same data, seed, and settings of split.")


def _num_leaked(teacher: Model, split: Split, store: Store) -> int:
    """Return how many images that measure the student the teacher, or a member of it, was trained on."""
    import pandas as pd

    from carclf.dataset.champion_split import HOLDOUT, TRAIN, VAL, previous_values

    rows = split.rows(store)
    measured = rows[rows["subset"].isin([VAL, HOLDOUT])]
    members = [Model.require(store, key) for name, key in teacher.inputs.items()
               if name.startswith("member_") and not name.endswith("_evaluation")]
    is_trained_on = [
        previous_values(measured, Split.require(store, key).history(store), "subset") == TRAIN
        for key in {model.input("split") for model in members or [teacher]}
    ]
    return int(pd.concat(is_trained_on, axis=1).any(axis=1).sum())


def _write_soft_targets(folder: Path, archive: Archive, split: Split, teacher: Model, store: Store) -> Metrics:
    import pandas as pd

    from carclf.dataset.archives import extract_images
    from carclf.dataset.champion_split import TRAIN, VAL
    from carclf.pipeline.batches import Examples, LetterboxedSource

    rows = split.rows(store)
    rows = rows[rows["subset"].isin([TRAIN, VAL])].reset_index(drop=True)
    size = teacher.image_size
    source = LetterboxedSource(Examples.from_index(rows, extract_images(archive, store), size), size)
    probabilities = pd.DataFrame(_predict(teacher.network(store), source), columns=teacher.class_names)
    known = probabilities[split.class_names]
    table = known.div(known.sum(axis=1), axis=0).set_axis(probability_columns(split.class_names), axis=1)
    rows[["path"]].join(table).to_parquet(folder / FILE, index=False)
    return {"num_images": len(rows)}


def _predict(network: "keras.Model", source: "LetterboxedSource") -> "npt.NDArray[np.float64]":
    """Return probabilities, shape (images, classes)."""
    import numpy as np
    from scipy.special import softmax

    from carclf.pipeline.batches import batches, num_batches
    from carclf.training.validation import padded

    logits = []
    with Meter("soft_targets") as meter:
        for pixels, _ in padded(batches(source, BATCH_SIZE), BATCH_SIZE):
            logits.append(np.asarray(network.predict_on_batch(pixels), float))
            meter(len(logits), num_batches(source, BATCH_SIZE))
    return np.asarray(softmax(np.concatenate(logits)[: len(source)], 1))
