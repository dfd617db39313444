"""The backbones of ``keras.applications`` with their right preprocessing, and the blocks to unfreeze."""

import re
import warnings
from typing import Any

import keras
import numpy as np

from carclf.errors import ConfigError
from carclf.training.weights import weights_file

TINY = "Tiny"
RESCALED = ("Xception", "InceptionResNetV2", "InceptionV3")  # these want -1..1; the others begin with their own layers
EFFICIENT = tuple(f"EfficientNetB{i}" for i in range(8))
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BLOCK = re.compile(r"stage_\d+_block_\d+|block\d+[a-z]?(_\d+)?|expanded_conv(_\d+)?|mixed_?\d+[a-z]?")


def build_backbone(name: str, weights: str, height: int, width: int) -> keras.Model:
    """The network from 0–255 RGB (batch, height, width, 3) to pooled features (batch, features).

    All but Tiny take pictures of any size, so that training can begin with smaller ones.
    Raises ConfigError for weights that cannot be had: never a silent random start.
    """
    if name == TINY:
        if weights != "none":
            raise ConfigError(f"The Tiny backbone has no weights {weights!r}. Set model.weights to none.")
        return _tiny(height, width)
    inputs = keras.Input((None, None, 3), dtype="float32")
    net = _application(name, weights)
    return keras.Model(inputs, net(_preprocess(name, weights)(inputs)), name="backbone")


def _preprocess(name: str, weights: str) -> Any:
    if name in RESCALED:
        return keras.layers.Rescaling(1 / 127.5, -1.0)
    if name in EFFICIENT and weights not in ("imagenet", "none"):
        # keras adds its last rescaling by 1/sqrt(std) only for weights="imagenet"; a file of the same weights
        # needs it too. Since x -> (x/255 - mean) / scale is linear, it can stand in front.
        factor = [std**-0.5 for std in IMAGENET_STD]
        offset = [255 * mean * (1 - f) for mean, f in zip(IMAGENET_MEAN, factor, strict=True)]
        return keras.layers.Rescaling(factor, offset)
    return keras.layers.Rescaling(1.0)


def _application(name: str, weights: str) -> keras.Model:
    make = getattr(keras.applications, name)
    wanted = {"imagenet": "imagenet", "none": None}.get(weights, weights)
    if wanted not in ("imagenet", None):
        wanted = str(weights_file(weights))
    try:
        with warnings.catch_warnings():
            # weights that do not fit some layers are only a warning to keras: here they would be a silent random start
            warnings.filterwarnings("error", category=UserWarning, module="keras.*saving")
            net = make(include_top=False, weights=wanted, input_shape=(None, None, 3), pooling="avg")
    except Exception as error:  # keras raises bare Exception where the download fails
        fetched = "Let this machine reach Keras' storage once, or set" if wanted == "imagenet" else "Set"
        raise ConfigError(
            f"The {weights} weights of {name} could not be loaded: {str(error)[:300]}. {fetched} model.weights to a "
            f"file or store URL of {name}'s no-top .weights.h5, or to 'none' for a random start."
        ) from error
    if not all(np.isfinite(array).all() for array in net.get_weights()):
        raise ConfigError(f"The {weights} weights of {name} hold values that are no numbers: the file is damaged.")
    return net


def _tiny(height: int, width: int) -> keras.Model:
    """Four convolutions whose features keep their places: learns the demo's centred cars from scratch in seconds."""
    inputs = keras.Input((height, width, 3), dtype="float32")
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(inputs)
    for block, filters in enumerate((24, 48, 64, 96), start=1):
        x = keras.layers.Conv2D(filters, 3, 2, "same", activation="relu", name=f"block{block}_conv")(x)
    return keras.Model(inputs, keras.layers.Flatten()(x), name="backbone")


def extract_backbone(classifier: keras.Model) -> keras.Model:
    """What stands below the head of a classifier that ``join`` made, with its weights."""
    features = classifier.inputs[0]
    for layer in classifier.layers[1:-1]:
        features = layer(features)
    return keras.Model(classifier.inputs[0], features, name="backbone")


def flatten_layers(model: keras.Model) -> list[Any]:
    """Every layer of a model and of the models inside it, in order."""
    return [inner for layer in model.layers
            for inner in (flatten_layers(layer) if isinstance(layer, keras.Model) else [layer])]


def backbone_layers(classifier: keras.Model) -> list[Any]:
    """Every layer below the head."""
    below = [layer for layer in classifier.layers if layer.name != "head"]
    return [inner for layer in below for inner in (flatten_layers(layer) if isinstance(layer, keras.Model) else [layer])]


def group_layers_by_block(layers: list[Any]) -> list[list[Any]]:
    """The layers by block, from the stem up: a new block begins where the name's block part changes."""
    groups: list[list[Any]] = [[]]
    current = ""
    for layer in layers:
        found = BLOCK.search(layer.name)
        if found and found.group() != current:
            current = found.group()
            groups.append([])
        groups[-1].append(layer)
    return groups


