"""Where a network looked: Grad-CAM of a classifier that ``training.heads.join`` made."""


from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from carclf.pipeline.batches import Examples, LetterboxedSource, Size

Maps = npt.NDArray[np.float32]
BATCH_SIZE = 8


class Explainer:
    """Looks at pictures of a folder as the network sees them, and says where the likeliest class was found."""

    def __init__(self, network: keras.Model, images: Path, size: Size, class_names: list[int]) -> None:
        self.images, self.size, self.class_names = images, size, class_names
        self.before, self.after = split_at_feature_maps(network)

    def __call__(self, paths: list[str], predicted: list[int]) -> list[tuple[Any, Any]]:
        """Of each picture the pixels, uint8 (height, width, 3), and the heat in 0..1, (height, width) of the maps."""
        rows = pd.DataFrame({"path": paths, "label": 0, "problem": ""})
        source = LetterboxedSource(Examples.from_index(rows, self.images, self.size), self.size)
        pixels = [source[position][0] for position in range(len(source))]
        columns = np.searchsorted(self.class_names, predicted)
        heat = [self.heat(np.stack(pixels[start : start + BATCH_SIZE]), columns[start : start + BATCH_SIZE])
                for start in range(0, len(pixels), BATCH_SIZE)]
        return list(zip(pixels, np.concatenate(heat), strict=True)) if heat else []

    def heat(self, pixels: npt.NDArray[Any], columns: npt.NDArray[Any]) -> Maps:
        """(batch, rows, columns) of 0..1: what each place adds to the logit of its picture's column.

        Gradient times activation, summed over the channels (HiResCAM, Draelos & Carin 2020, arXiv:2011.08891). Where
        the maps are averaged before the head, the gradient is the same at each place, and this is Grad-CAM (Selvaraju
        et al. 2017, arXiv:1610.02391); where they are flattened, as Tiny's are, Grad-CAM's own mean would be wrong.
        """
        maps = keras.ops.convert_to_numpy(self.before(pixels, training=False)).astype(np.float32)
        wanted = np.eye(len(self.class_names), dtype=np.float32)[columns]

        def logit(found: Any) -> Any:
            for layer in self.after:
                found = layer(found, training=False)
            return keras.ops.sum(found * wanted)

        heat = np.maximum((gradient(logit, maps) * maps).sum(-1), 0)
        return np.asarray(heat / np.maximum(heat.max((1, 2), keepdims=True), 1e-12))


def split_at_feature_maps(network: keras.Model) -> tuple[keras.Model, list[Any]]:
    """The part of a classifier up to its last feature maps, and the layers from there to the logits."""
    layers = _chain(network)
    last = max(place for place, layer in enumerate(layers) if len(layer.output.shape) == 4)
    maps = network.inputs[0]
    for layer in layers[: last + 1]:
        maps = layer(maps)
    return keras.Model(network.inputs[0], maps), layers[last + 1 :]


def _chain(network: keras.Model) -> list[Any]:
    """What a picture goes through one after the other; a network inside is cut behind its last feature maps."""
    found: list[Any] = []
    for layer in network.layers[1:]:
        found += _cut(layer) if isinstance(layer, keras.Model) and len(layer.inputs[0].shape) == 4 else [layer]
    return found


def _cut(inside: keras.Model) -> list[Any]:
    last = max(place for place, layer in enumerate(inside.layers) if len(layer.output.shape) == 4)
    if last == len(inside.layers) - 1:
        return [inside]
    # what the next layer gets, which is not always a layer's output: ConvNeXt adds by an operator
    return [keras.Model(inside.inputs[0], inside.layers[last + 1].input), *inside.layers[last + 1 :]]

def gradient(function: Callable[[Any], Any], at: Any) -> npt.NDArray[np.float32]:
    """The derivative of a function from an array to a number, in the array's shape."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        point = tf.convert_to_tensor(at)
        with tf.GradientTape() as tape:
            tape.watch(point)
            value = function(point)
        return np.asarray(tape.gradient(value, point))
    import jax

    return np.asarray(jax.grad(function)(keras.ops.convert_to_tensor(at)))
