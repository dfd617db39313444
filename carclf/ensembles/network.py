"""The network of an ensemble, which averages the calibrated probabilities of its members."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from carclf.artifacts import Model, Split, StageContext
from carclf.config import Evaluate
from carclf.dataset.champion_split import VAL
from carclf.dataset.splits import units_of
from carclf.ensembles.member_weights import MIN_IMAGES, group_weights
from carclf.ensembles.members import (
    Member,
    Probabilities,
    effective_weights,
    held_out_mask,
    read_members,
    with_group_weights,
)
from carclf.errors import QualityError
from carclf.inference.tta import tta_views
from carclf.pipeline.batches import Examples, LetterboxedSource, Size, batches, num_batches
from carclf.progress import Meter, log
from carclf.stats import class_positions, cross_fitting_folds

MIN_PROBABILITY = 1e-30  # keeps the logarithm finite


def build_ensemble(networks: Sequence[keras.Model], members: Sequence[Member], sizes: Sequence[Size]) -> keras.Model:
    """Return a frozen network from images to the logarithms of the weighted mean probabilities.

    Its input has the largest of the sizes, shape (batch, height, width, 3). Smaller members resize the images.
    """
    largest = max(sizes, key=lambda size: size[0] * size[1])
    images = keras.Input((*largest, 3), dtype="float32", name="images")
    weighted = []
    for position, (network, member, size) in enumerate(zip(networks, members, sizes, strict=True)):
        resized = images if size == largest else keras.layers.Resizing(*size, antialias=True)(images)
        logits = keras.Model(network.inputs[0], network.outputs[0], name=f"member{position}")(resized)
        scaled = keras.layers.Rescaling(1 / member.temperature, dtype="float32")(logits)
        probabilities = keras.layers.Softmax(name=_softmax_name(position), dtype="float32")(scaled)
        weighted.append(keras.layers.Rescaling(member.weight, dtype="float32")(probabilities))
    mean = keras.layers.Add(dtype="float32")(weighted)
    logits = keras.ops.log(keras.ops.maximum(mean, MIN_PROBABILITY))
    output = keras.layers.Activation("linear", name="logits", dtype="float32")(logits)
    ensemble = keras.Model(images, output, name="ensemble")
    ensemble.trainable = False
    return ensemble


def member_probabilities(
    network: keras.Model, num_members: int, source: LetterboxedSource, settings: Evaluate
) -> Probabilities:
    """Return each member's calibrated probabilities, averaged over the views: shape (members, images, classes)."""
    outputs = [network.get_layer(_softmax_name(position)).output for position in range(num_members)]
    tapped = keras.Model(network.inputs, outputs)
    means = []
    with Meter("predict") as meter:
        for pixels, _ in batches(source, settings.batch_size):
            views = [np.asarray(tapped.predict_on_batch(view), float) for view in tta_views(pixels, settings)]
            means.append(np.mean(views, axis=0))
            meter(len(means), num_batches(source, settings.batch_size))
    return np.concatenate(means, axis=1)


def weighted_mean(
    probabilities: Probabilities, held_out: npt.NDArray[np.bool_], members: Sequence[Member]
) -> Probabilities:
    """Return the weighted mean of the members that were not trained on each image, shape (images, classes).

    The mean is NaN for images that every member was trained on. ``probabilities`` have the shape (members, images,
    classes), the mask of ``held_out_mask`` has the shape (members, images).
    """
    return np.asarray((effective_weights(held_out, members)[:, :, None] * probabilities).sum(0))


def out_of_sample_predictions(
    network: keras.Model, model: Model, split: Split, images: Path, context: StageContext
) -> tuple[pd.DataFrame, Probabilities]:
    """Return rows and probabilities, shape (rows, classes), of images predicted by members not trained on them.

    On the ensemble's training split these are the validation images of all members' splits, on another split its
    validation images. They may have determined the members' weights, so ``cross_fitted_mean`` fits the weights again.
    Images that every member was trained on are left out; raise QualityError if none remain. ``images`` is the
    unpacked archive.
    """
    store, settings = context.store, context.config.evaluate
    members = read_members(model, store)
    rows = _validation_rows(model, split, members, context)
    held_out = held_out_mask(rows, members, store)
    usable = np.asarray(held_out.any(0))
    if not usable.any():
        raise QualityError(f"The ensemble {model.key} cannot be evaluated on the split {split.key}: each validation "
                           "image was used to train every member. Evaluate it on a split of one of its members.")
    if num_trained_on := int((~usable).sum()):
        log.warning("evaluate: images left out because every member was trained on them num_trained_on=%d num_val=%d",
                    num_trained_on, len(rows))
    rows = rows[usable].reset_index(drop=True)
    source = LetterboxedSource(Examples.from_index(rows, images, model.image_size), model.image_size)
    probabilities = member_probabilities(network, len(members), source, settings)
    labels = class_positions(rows["label"].to_numpy(), model.class_names)
    folds = cross_fitting_folds(units_of(rows).to_numpy())
    return rows, cross_fitted_mean(probabilities, held_out[:, usable], members, labels, folds)


def cross_fitted_mean(
    probabilities: Probabilities, held_out: npt.NDArray[np.bool_], members: Sequence[Member],
    labels: npt.NDArray[np.int64], folds: npt.NDArray[np.int64],
) -> Probabilities:
    """Return ``weighted_mean`` with weights that are fitted to the images of other folds.

    The members' temperatures are not fitted again. Fewer than MIN_IMAGES images that every recipe may predict are too
    few for weights, so the deployed ones apply. ``labels`` are columns of the probabilities, shape (images,), -1 for an
    unknown class; ``folds`` are the images' folds.
    """
    of_label = np.where(held_out & (labels >= 0), probabilities[:, np.arange(len(labels)), labels], np.nan)
    likelihoods = pd.DataFrame(of_label).groupby(np.array([member.group for member in members])).mean()
    if likelihoods.notna().all().sum() < MIN_IMAGES:
        return weighted_mean(probabilities, held_out, members)
    mean = np.empty(probabilities.shape[1:])
    for fold in np.unique(folds):
        inside = folds == fold
        weights = group_weights(likelihoods.loc[:, ~inside].dropna(axis="columns").to_numpy())
        weighted = with_group_weights(members, weights)
        mean[inside] = weighted_mean(probabilities[:, inside], held_out[:, inside], weighted)
    return mean


def _validation_rows(model: Model, split: Split, members: Sequence[Member], context: StageContext) -> pd.DataFrame:
    """Return the validation images of the members' splits, or of ``split`` if it is not the ensemble's."""
    keys = [member.split for member in members] if split.key == model.input("split") else [split.key]
    rows = pd.concat([Split.require(context.store, key).rows(context.store) for key in keys])
    return rows[rows["subset"] == VAL].drop_duplicates("path", ignore_index=True)


def _softmax_name(position: int) -> str:
    return f"member{position}_probabilities"
