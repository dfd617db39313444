"""The modes of BatchNormalization in fine-tuning, and its statistics for averaged weights."""

from functools import partial
from typing import Any

import keras

from carclf.pipeline.batches import LetterboxedSource, batches
from carclf.training.backbones import flatten_layers


def batch_norm_layers(model: keras.Model) -> list[Any]:
    """Return every BatchNormalization layer of a model and of its nested models."""
    return [layer for layer in flatten_layers(model) if isinstance(layer, keras.layers.BatchNormalization)]


def set_batch_norm_mode(model: keras.Model, mode: str) -> None:
    """Let nothing of BatchNormalization train (inference), its scale and offset (affine), or its statistics, too.

    Frozen layers stay frozen in every mode. A nested call with training=False is not enough for inference: ``fit``
    still calls the nested layers with training=True (seen in Keras 3.15).
    """
    for layer in batch_norm_layers(model):
        if mode == "inference":
            layer.trainable = False
        _fix_mode(layer, training=False if mode == "affine" else None)


def recompute_statistics(model: keras.Model, source: LetterboxedSource, batch_size: int) -> None:
    """Set the statistics of the trainable layers to their means over the batches of some training images.

    The statistics of a training are those of its last weights, not of their average (Izmailov 2018, arXiv:1803.05407;
    torch.optim.swa_utils.update_bn). No other layer is in training mode. The images are not augmented, as those that
    the model predicts.
    """
    layers = [layer for layer in batch_norm_layers(model) if layer.trainable]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        _fix_mode(layer, training=True)
    for number, (pixels, _) in enumerate(batches(source, batch_size)):
        for layer in layers:
            layer.momentum = number / (number + 1)  # a mean of all batches so far
        model(pixels, training=False)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        _fix_mode(layer, training=None)


def _fix_mode(layer: Any, *, training: bool | None) -> None:
    """Call the layer in this mode, whatever the model's mode is; None follows the model again.

    Only this object changes: the file of a model has no trace of it.
    """
    vars(layer).pop("call", None)
    if training is not None:
        layer.call = partial(_call_in_mode, layer, training)


def _call_in_mode(layer: Any, mode: bool, inputs: Any, training: Any = None, mask: Any = None) -> Any:
    return type(layer).call(layer, inputs, training=mode, mask=mask)
