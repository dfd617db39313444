"""Grad-CAM heatmaps of a classifier from ``training.heads.join_backbone_and_head``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from carclf.pipeline.batches import Examples, LetterboxedSource, Size, batches
from carclf.stats import class_positions

Heatmaps = npt.NDArray[np.float32]
BATCH_SIZE = 8
MAP_RANK = 4  # dimensions of feature maps: (batch, height, width, channels)
MIN_HEAT = 1e-12  # avoids a division by zero if there is no evidence for a class


class Explainer:
    """Computes heatmaps of the images in a folder, as the network sees them."""

    def __init__(self, network: keras.Model, images: Path, size: Size, class_names: list[str]) -> None:
        self.images = images
        self.size = size
        self.class_names = class_names
        self.lower, self.upper_layers = split_at_feature_maps(network)

    def __call__(self, paths: list[str], predicted: list[str]) -> list[tuple[Any, Heatmaps]]:
        """Return the pixels of each image, uint8 (height, width, 3), and the heatmap of its predicted class.

        The heatmap is in [0, 1] and has the height and width of the feature maps.
        """
        columns = class_positions(predicted, self.class_names)
        rows = pd.DataFrame({"path": paths, "class_index": columns, "problem": ""})
        source = LetterboxedSource(Examples.from_index(rows, self.images, self.size), self.size)
        heatmaps: list[tuple[Any, Heatmaps]] = []
        for pixels, labels in batches(source, BATCH_SIZE):
            heatmaps += zip(pixels, self.heat(pixels, labels), strict=True)
        return heatmaps

    def heat(self, pixels: npt.NDArray[Any], columns: npt.NDArray[Any]) -> Heatmaps:
        """Return (batch, height, width) in [0, 1]: each position's contribution to the logit in the image's column.

        This is gradient times activation, summed over the channels (HiResCAM, Draelos & Carin 2020, arXiv:2011.08891).
        If the maps are averaged before the head, the gradient is the same at each position, and this equals Grad-CAM
        (Selvaraju et al. 2017, arXiv:1610.02391). If they are flattened, as in Tiny, Grad-CAM's mean would be wrong.
        """
        maps = keras.ops.convert_to_numpy(self.lower(pixels, training=False)).astype(np.float32)
        one_hot = np.eye(len(self.class_names), dtype=np.float32)[columns]

        def sum_of_logits(outputs: Any) -> Any:
            for layer in self.upper_layers:
                outputs = layer(outputs, training=False)
            return keras.ops.sum(outputs * one_hot)

        heat = np.maximum((gradient(sum_of_logits, maps) * maps).sum(-1), 0)
        return np.asarray(heat / np.maximum(heat.max((1, 2), keepdims=True), MIN_HEAT))


def gradient(function: Callable[[Any], Any], point: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the gradient of a scalar function at an array, in the array's shape."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tensor = tf.convert_to_tensor(point)
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            value = function(tensor)
        return np.asarray(tape.gradient(value, tensor))
    import jax

    return np.asarray(jax.grad(function)(keras.ops.convert_to_tensor(point)))


def split_at_feature_maps(network: keras.Model) -> tuple[keras.Model, list[Any]]:
    """Return the part of a classifier up to its last feature maps, and the layers from there to the logits."""
    layers = _sequence(network)
    last = _last_map_layer(layers)
    maps = network.inputs[0]
    for layer in layers[: last + 1]:
        maps = layer(maps)
    return keras.Model(network.inputs[0], maps), layers[last + 1 :]


def _sequence(network: keras.Model) -> list[Any]:
    """Return the layers in sequence; a nested network is split after its last feature maps."""
    layers: list[Any] = []
    for layer in network.layers[1:]:
        is_network = isinstance(layer, keras.Model) and len(layer.inputs[0].shape) == MAP_RANK
        layers += _split_nested(layer) if is_network else [layer]
    return layers


def _split_nested(network: keras.Model) -> list[Any]:
    last = _last_map_layer(network.layers)
    if last == len(network.layers) - 1:
        return [network]
    # Take the input of the next layer, which is not always a layer's output: ConvNeXt adds with an operator.
    return [keras.Model(network.inputs[0], network.layers[last + 1].input), *network.layers[last + 1 :]]


def _last_map_layer(layers: list[Any]) -> int:
    return max(position for position, layer in enumerate(layers) if len(layer.output.shape) == MAP_RANK)
