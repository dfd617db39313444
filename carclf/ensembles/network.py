"""Several networks as one: their calibrated probabilities, averaged."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from carclf.artifacts import Model, Split
from carclf.config import Evaluate
from carclf.dataset.champion_split import VAL
from carclf.ensembles.members import Member, Probabilities, effective_weights, held_out_mask, read_members, split_rows
from carclf.errors import QualityError
from carclf.inference.tta import tta_views
from carclf.pipeline.batches import Examples, LetterboxedSource, Size, batches, num_batches
from carclf.progress import Meter, log
from carclf.services.storage import Store

SMALLEST = 1e-30  # a probability below it is taken for this one, so that its logarithm is a number


def build_ensemble(networks: Sequence[keras.Model], members: Sequence[Member], sizes: Sequence[Size]) -> keras.Model:
    """Pictures of the largest size (batch, height, width, 3) to the logarithms of the weighted mean probabilities.

    The members' weights are frozen; those for smaller pictures stand behind a resizing.
    """
    largest = max(sizes, key=lambda size: size[0] * size[1])
    pictures = keras.Input((*largest, 3), dtype="float32", name="pictures")
    weighted = []
    for position, (network, member, size) in enumerate(zip(networks, members, sizes, strict=True)):
        own = pictures if size == largest else keras.layers.Resizing(*size, antialias=True)(pictures)
        logits = keras.Model(network.inputs[0], network.outputs[0], name=f"member{position}")(own)
        scaled = keras.layers.Rescaling(1 / member.temperature, dtype="float32")(logits)
        shares = keras.layers.Softmax(name=_name(position), dtype="float32")(scaled)
        weighted.append(keras.layers.Rescaling(member.weight, dtype="float32")(shares))
    logits = keras.ops.log(keras.ops.maximum(keras.layers.Add(dtype="float32")(weighted), SMALLEST))
    joined = keras.Model(pictures, keras.layers.Activation("linear", name="logits", dtype="float32")(logits),
                         name="ensemble")
    joined.trainable = False
    return joined


def _name(position: int) -> str:
    return f"member{position}_probabilities"


def member_probabilities(network: keras.Model, num_members: int, source: LetterboxedSource, settings: Evaluate) -> Probabilities:
    """Each member's calibrated probabilities (members, rows, classes), averaged over the looks."""
    tapped = keras.Model(network.inputs, [network.get_layer(_name(one)).output for one in range(num_members)])
    found: list[Any] = []
    with Meter("predict") as meter:
        for pixels, _ in batches(source, settings.batch_size):
            told = [np.asarray(tapped.predict_on_batch(look), float) for look in tta_views(pixels, settings)]
            found.append(np.mean(told, axis=0))
            meter(len(found), num_batches(source, settings.batch_size))
    return np.concatenate(found, axis=1)


def weighted_mean(shares: Probabilities, may_answer: npt.NDArray[np.bool_], members: Sequence[Member]) -> Probabilities:
    """The mean (rows, classes) of the members that may answer (members, rows); not a number where none may."""
    return np.asarray((effective_weights(may_answer, members)[:, :, None] * shares).sum(0))


def out_of_sample_predictions(
    network: keras.Model, split: Split, model: Model, images: Path, settings: Evaluate, store: Store
) -> tuple[pd.DataFrame, Probabilities]:
    """Validation pictures and the probabilities of an ensemble, each by members that were not trained on it only.

    On the ensemble's own split these are the validation pictures of every member, on another one that split's.
    """
    members = read_members(model, store)
    own = split.key == model.inputs["split"]
    wanted: list[Any] = [split_rows(key, store) for key in ([one.split for one in members] if own else [split.key])]
    every: Any = pd.concat([table[table["subset"] == VAL] for table in wanted])
    rows = every.drop_duplicates("path", ignore_index=True)
    may_answer = held_out_mask(rows, members, store)
    answered = may_answer.any(0)
    if not answered.any():
        raise QualityError(f"Every validation picture of the split {split.key} trained some of each member of the "
                           f"ensemble {model.key}: it cannot be measured on them.")
    if num_trained_on := int((~answered).sum()):
        log.warning("evaluate: %d of %d pictures trained every member of the ensemble and are left out", num_trained_on,
                    len(rows))
    rows = rows[answered].reset_index(drop=True)
    size = model.image_size
    shares = member_probabilities(network, len(members), LetterboxedSource(Examples.from_index(rows, images, size), size), settings)
    return rows, weighted_mean(shares, may_answer[:, answered], members)
