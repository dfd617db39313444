"""Copy the weights of timm checkpoints into networks of ``keras.applications`` without their heads."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from carclf.errors import ConfigError
from carclf.training.safetensors_file import read_tensors
from carclf.training.weights import CheckpointConfig

Array = np.ndarray[Any, Any]

# The architectures in timm's config.json by backbone. Others may have tensors of the same names and shapes, but compute
# something else: timm's efficientnet_b0 has another padding and epsilon than tf_efficientnet_b0, which equals Keras'.
ARCHITECTURES = {
    **{f"ConvNeXt{size}": (f"convnext_{size.lower()}",) for size in ("Tiny", "Small", "Base", "XLarge")},
    "ConvNeXtLarge": ("convnext_large", "convnext_large_mlp"),  # they differ in the head
    **{f"EfficientNetB{i}": (f"tf_efficientnet_b{i}",) for i in range(8)},
    **{f"EfficientNetV2{size}": (f"tf_efficientnetv2_{size.lower()}",) for size in ("B0", "B1", "B2", "B3", *"SML")},
}
CLIP_PREFIX = "visual.trunk."  # of the image network in OpenCLIP's files, which also contain a text network
# No backbone has these: classifiers, and the counters of BatchNormalization.
UNUSED = re.compile(r"head\.(?:fc|pre_logits)\..+|classifier\..+|.+\.num_batches_tracked")

# Names in timm by names in Keras.
VARIABLES = {"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias", "moving_mean": "running_mean",
             "moving_variance": "running_var"}
CONVNEXT_STEM = {"stem_conv": "stem.0", "stem_layernorm": "stem.1"}
CONVNEXT_BLOCK = {"depthwise_conv": "conv_dw", "layernorm": "norm", "pointwise_conv_1": "mlp.fc1",
                  "pointwise_conv_2": "mlp.fc2", "layer_scale": "gamma"}
EFFICIENTNET_ENDS = {"stem_conv": "conv_stem", "stem_bn": "bn1", "top_conv": "conv_head", "top_bn": "bn2"}
EXCITATION = {"se_reduce": "se.conv_reduce", "se_expand": "se.conv_expand"}
EFFICIENTNET_BLOCKS = {  # by whether the block expands its channels, and whether it has a depthwise convolution
    (True, True): {"expand_conv": "conv_pw", "expand_bn": "bn1", "dwconv": "conv_dw", "bn": "bn2",
                   "project_conv": "conv_pwl", "project_bn": "bn3"},
    (False, True): {"dwconv": "conv_dw", "bn": "bn1", "project_conv": "conv_pw", "project_bn": "bn2"},
    (True, False): {"expand_conv": "conv_exp", "expand_bn": "bn1", "project_conv": "conv_pwl", "project_bn": "bn2"},
    (False, False): {"project_conv": "conv", "project_bn": "bn1"},
}


def require_architecture(backbone: str, config: CheckpointConfig, path: Path) -> None:
    """Raise ConfigError if a checkpoint is not one of the backbone."""
    expected = ARCHITECTURES.get(backbone, ())
    if config.architecture in expected:
        return
    fitting = [name for name, architectures in ARCHITECTURES.items() if config.architecture in architectures]
    known = ", ".join(name for architectures in ARCHITECTURES.values() for name in architectures)
    remedy = f"Set model.backbone to {fitting[0]}." if fitting else f"These can be converted: {known}."
    raise ConfigError(f"The checkpoint {path} has the architecture {config.architecture!r}, but the backbone "
                      f"{backbone} needs {' or '.join(expected) or 'weights of Keras'}. {remedy}")


def copy_weights(layers: Iterable[keras.layers.Layer], path: Path) -> None:
    """Set the weights of a network's layers to those of a checkpoint.

    Raise ConfigError with the name of the first tensor, from the stem up, that is missing, has another shape or is not
    of floating-point type, or that no layer uses.
    """
    tensors = _image_network(read_tensors(path))
    layers = [layer for layer in layers if layer.weights and not isinstance(layer, keras.layers.Normalization)]
    layer_names = {layer.name for layer in layers}
    used = set()
    for layer in layers:
        is_convnext = layer.name.startswith(("convnext", "layer_normalization"))
        prefix = _convnext_name(layer.name) if is_convnext else _efficientnet_name(layer.name, layer_names)
        values = []
        for variable in layer.weights:
            # Keras' layer scale has one unnamed variable, which is timm's parameter itself.
            name = f"{prefix}.{VARIABLES[variable.name]}" if variable.name in VARIABLES else prefix
            values.append(_convert(tensors, name, layer, variable.shape, path))
            used.add(name)
        layer.set_weights(values)
    for name in tensors:
        if name not in used and not UNUSED.fullmatch(name):
            raise ConfigError(f"The checkpoint {path} does not fit: the network has no place for the tensor {name} of "
                              f"shape {tensors[name].shape}. Set model.weights to a checkpoint of this backbone.")


def _image_network(tensors: dict[str, Array]) -> dict[str, Array]:
    trunk = {name.removeprefix(CLIP_PREFIX): array for name, array in tensors.items() if name.startswith(CLIP_PREFIX)}
    return trunk or tensors


def _convnext_name(name: str) -> str:
    if match := re.fullmatch(r".+_stage_(\d)_block_(\d+)_(\w+)", name):
        return f"stages.{match[1]}.blocks.{match[2]}.{CONVNEXT_BLOCK[match[3]]}"
    if match := re.fullmatch(r".+_downsampling_(layernorm|conv)_(\d)", name):
        return f"stages.{int(match[2]) + 1}.downsample.{['layernorm', 'conv'].index(match[1])}"
    if match := re.fullmatch(r".+_(stem_\w+)", name):
        return CONVNEXT_STEM[match[1]]
    return "head.norm"  # the only layer that Keras does not name


def _efficientnet_name(name: str, layer_names: set[str]) -> str:
    if name in EFFICIENTNET_ENDS:
        return EFFICIENTNET_ENDS[name]
    block, _, part = name.partition("_")
    part = part.replace("dwconv2", "dwconv")
    kind = f"{block}_expand_conv" in layer_names, bool({f"{block}_dwconv", f"{block}_dwconv2"} & layer_names)
    stage, repeat = int(block[5:-1]) - 1, ord(block[-1]) - ord("a")  # of names such as block1a
    return f"blocks.{stage}.{repeat}.{(EFFICIENTNET_BLOCKS[kind] | EXCITATION)[part]}"


def _convert(
    tensors: Mapping[str, Array], name: str, layer: keras.layers.Layer, shape: tuple[int, ...], path: Path
) -> Array:
    """Return a tensor in Keras' order of axes, (height, width, input, output) for convolutions."""
    if len(shape) == 4:  # noqa: PLR2004 -- timm: (output, input / groups, height, width)
        axes: tuple[int, ...] = (2, 3, 0, 1) if isinstance(layer, keras.layers.DepthwiseConv2D) else (2, 3, 1, 0)
    else:
        axes = tuple(reversed(range(len(shape))))
    expected = tuple(shape[axes.index(axis)] for axis in range(len(axes)))
    array = tensors.get(name)
    if array is None or array.shape != expected or array.dtype.kind != "f":
        actual = "is missing" if array is None else f"has the shape {array.shape} and the type {array.dtype}"
        raise ConfigError(f"The checkpoint {path} does not fit: the tensor {name} {actual}, expected floating-point "
                          f"numbers of shape {expected}. Set model.weights to a checkpoint of this backbone.")
    return np.asarray(array, np.float32).transpose(axes)
