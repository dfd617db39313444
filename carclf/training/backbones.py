"""Backbones of ``keras.applications`` with their preprocessing, and their division into blocks."""

import random
import re
import warnings
from typing import Any

import keras
import numpy as np

from carclf.config import FAMILY_BY_BACKBONE
from carclf.errors import ConfigError
from carclf.training.timm_checkpoints import copy_weights, require_architecture
from carclf.training.weights import StartingWeights

TINY = "Tiny"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MAX_REASON = 300  # characters of Keras' message in our error
# The last layer of a residual branch: a Dropout by image, or in ConvNeXt a placeholder that does nothing.
BRANCH_END = re.compile(r"(block\d+[a-z]_drop|stage_\d+_block_\d+_identity)$")
BLOCK = re.compile(r"stage_\d+_block_\d+|block\d+[a-z]?(_\d+)?|expanded_conv(_\d+)?|mixed_?\d+[a-z]?")


def build_backbone(name: str, weights: StartingWeights, height: int, width: int) -> keras.Model:
    """Return the network from RGB pixels in [0, 255], (batch, height, width, 3), to features, (batch, features).

    All backbones but Tiny accept images of any size, so that training can start with smaller ones. Raise ConfigError
    if the weights cannot be loaded: training never silently starts from random weights.
    """
    if name == TINY:
        if weights.setting != "none":
            raise ConfigError(f"The Tiny backbone has no weights {weights.setting!r}. Set model.weights to none.")
        return _tiny(height, width)
    inputs = keras.Input((None, None, 3), dtype="float32")
    if weights.checkpoint:
        preprocessing, net = _from_checkpoint(name, weights)
    else:
        preprocessing, net = _preprocessing(name, weights), _application(name, weights)
    if not all(np.isfinite(array).all() for array in net.get_weights()):
        raise ConfigError(f"The {weights.setting} weights of {name} contain values that are not finite, so the file is "
                          "damaged. Set model.weights to an intact file.")
    return keras.Model(inputs, net(preprocessing(inputs)), name="backbone")


def _from_checkpoint(name: str, weights: StartingWeights) -> tuple[keras.Layer, keras.Model]:
    """Return the preprocessing and the network of a timm checkpoint."""
    config, path = weights.checkpoint, weights.path
    assert config and path
    require_architecture(name, config, path)
    # EfficientNetB0 to B7 have no such argument: they divide by 255, and their normalization does nothing without
    # weights="imagenet". Keras' mean and standard deviation in the other networks are not those of every checkpoint.
    is_first = name.startswith("EfficientNetB")
    net = _application(name, StartingWeights("none"), **({} if is_first else {"include_preprocessing": False}))
    copy_weights(flatten_layers(net), path)
    factor = 255 if is_first else 1
    scale = [factor / (255 * std) for std in config.std]
    offset = [-factor * mean / std for mean, std in zip(config.mean, config.std, strict=True)]
    return keras.layers.Rescaling(scale, offset), net


def _preprocessing(name: str, weights: StartingWeights) -> keras.Layer:
    if name.startswith("EfficientNetB") and weights.path:
        # Keras adds its last rescaling by 1/sqrt(std) only for weights="imagenet", but the same weights from a file
        # need it too. Since x -> (x/255 - mean) / scale is linear, an equivalent rescaling can come first.
        factor = [std**-0.5 for std in IMAGENET_STD]
        offset = [255 * mean * (1 - f) for mean, f in zip(IMAGENET_MEAN, factor, strict=True)]
        return keras.layers.Rescaling(factor, offset)
    low, high = FAMILY_BY_BACKBONE[name].pixel_range
    return keras.layers.Rescaling((high - low) / 255, float(low))


def _application(name: str, weights: StartingWeights, **options: bool) -> keras.Model:
    source = str(weights.path) if weights.path else {"none": None}.get(weights.setting, weights.setting)
    try:
        with warnings.catch_warnings():
            # Keras only warns about weights that do not fit some layers, which would then start from random weights.
            warnings.filterwarnings("error", category=UserWarning, module="keras.*saving")
            make = getattr(keras.applications, name)
            return make(include_top=False, weights=source, input_shape=(None, None, 3), pooling="avg", **options)
    except Exception as error:  # Keras raises a bare Exception if the download fails
        remedy = "Give this machine access to Keras' storage once, or set" if source == "imagenet" else "Set"
        raise ConfigError(f"The {weights.setting} weights of {name} could not be loaded: {str(error)[:MAX_REASON]}. "
                          f"{remedy} model.weights to a file or store URL of the no-top .weights.h5 of {name}, or to "
                          "'none' for a random start.") from error


def _tiny(height: int, width: int) -> keras.Model:
    """Four convolutions with flattened features: learns the centered cars of the demo from scratch in seconds."""
    inputs = keras.Input((height, width, 3), dtype="float32")
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(inputs)
    for block, filters in enumerate((24, 48, 64, 96), start=1):
        x = keras.layers.Conv2D(filters, 3, 2, "same", activation="relu", name=f"block{block}_conv")(x)
    return keras.Model(inputs, keras.layers.Flatten()(x), name="backbone")


def extract_backbone(classifier: keras.Model) -> keras.Model:
    """Return the layers below the head of a classifier from ``join_backbone_and_head``, with their weights."""
    features = classifier.inputs[0]
    for layer in classifier.layers[1:-1]:
        features = layer(features)
    return keras.Model(classifier.inputs[0], features, name="backbone")


def flatten_layers(layer: Any) -> list[Any]:
    """Return every layer of a model and of its nested models, in order; any other layer is returned alone."""
    if not isinstance(layer, keras.Model):
        return [layer]
    return [flat for nested in layer.layers for flat in flatten_layers(nested)]


def backbone_layers(classifier: keras.Model) -> list[Any]:
    """Return every layer below the head, nested ones included."""
    return [flat for layer in classifier.layers if layer.name != "head" for flat in flatten_layers(layer)]


def group_layers_by_block(layers: list[Any]) -> list[list[Any]]:
    """Return the layers by block, from the stem up: a block starts where the block part of the name changes."""
    groups: list[list[Any]] = [[]]
    current = ""
    for layer in layers:
        match = BLOCK.search(layer.name)
        if match and match.group() != current:
            current = match.group()
            groups.append([])
        groups[-1].append(layer)
    return groups


def with_drop_path(model: keras.Model, rate: float, seed: int) -> keras.Model:
    """Return a model of the same layers in which training drops residual branches (Huang 2016, arXiv:1603.09382).

    Each image skips a branch with a probability that rises linearly with the block, from 0 at the first one, to
    ``rate`` above the last one, as in keras.applications' EfficientNets. The given model, which is saved, keeps its
    layers. Keras' StochasticDepth is not used: its random numbers are in no checkpoint.
    """
    blocks = group_layers_by_block(backbone_layers(model))
    positions = {layer: position for position, block in enumerate(blocks) for layer in block}

    def replace_branch_end(layer: Any) -> Any:
        if not BRANCH_END.search(layer.name):
            return layer
        return keras.layers.Dropout(
            rate * (positions[layer] - 1) / (len(blocks) - 1), noise_shape=(None, 1, 1, 1), name=layer.name,
            seed=random.Random(f"{seed} {layer.name}").getrandbits(31), dtype=layer.dtype_policy,
        )

    return keras.models.clone_model(model, clone_function=replace_branch_end, recursive=True)
