"""Write a trained network in the formats of other runtimes, and compare their predictions with the network's."""

import importlib.util
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from carclf.errors import ConfigError, QualityError
from carclf.inference.runtimes import predict_logits
from carclf.training.backbones import flatten_layers

# Largest allowed difference of a probability. On CPUs all formats are below 1e-6; a GPU may compute less precisely.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class ExportFormat:
    """The name of the file or folder, Keras' name of the format, and the modules that it needs."""

    file: str
    keras_format: str  # empty for Keras' native format, which the model already has
    modules: tuple[str, ...] = ()


FORMATS = {
    "keras": ExportFormat("model.keras", ""),
    "saved_model": ExportFormat("saved_model", "tf_saved_model"),
    "onnx": ExportFormat("model.onnx", "onnx", ("tf2onnx", "onnx", "onnxruntime")),
    "litert": ExportFormat("model.tflite", "litert", ("ai_edge_litert",)),
}


def require_formats(formats: Sequence[str], setting: str = "--format") -> None:
    """Raise ConfigError for an unknown format, or one that this environment cannot write and check.

    The message names the setting that contains the formats.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ConfigError(f"Unknown format {unknown[0]!r}. Set {setting} to some of {','.join(FORMATS)}.")
    if set(formats) - {"keras"} and keras.backend.backend() != "tensorflow":
        raise ConfigError("Only TensorFlow can write formats other than keras. Set KERAS_BACKEND=tensorflow.")
    for name in formats:
        missing = [module for module in FORMATS[name].modules if importlib.util.find_spec(module) is None]
        if missing:
            packages = " ".join(module.replace("_", "-") for module in missing)
            raise ConfigError(f"The format {name} needs packages that are not installed. Run pip install {packages}, "
                              f"or remove it from {setting}.")


def export_network(name: str, network: keras.Model, size: tuple[int, int], source: Path, folder: Path) -> Path:
    """Write the network, whose Keras file is ``source``, in a format, and return the new file or folder.

    The exported network maps float32 images (batch, height, width, 3) in [0, 255] to logits (batch, classes).
    ``size`` is the height and width.
    """
    path = folder / FORMATS[name].file
    if name == "keras":
        shutil.copyfile(source, path)
        return path
    _freeze_normalization(network)
    images = keras.InputSpec(shape=(None, *size, 3), dtype="float32", name="images")
    network.export(str(path), format=FORMATS[name].keras_format, input_signature=[images], verbose=False)
    return path


def _freeze_normalization(network: keras.Model) -> None:
    # tf2onnx mistakes a tensor that a graph captured for one of its inputs; an array becomes a constant of the graph.
    for layer in flatten_layers(network):
        if isinstance(layer, keras.layers.Normalization) and layer.input_mean is not None:
            layer.mean = np.asarray(layer.mean)
            layer.variance = np.asarray(layer.variance)


def check_exported(name: str, path: Path, images: npt.NDArray[Any], logits: npt.NDArray[Any]) -> float:
    """Return the largest difference of a probability between the network's logits and the file's in its own runtime.

    Raise QualityError if the difference exceeds TOLERANCE, or the file cannot be loaded.
    """
    try:
        exported = predict_logits(name, path, images)
    except QualityError as error:
        raise QualityError(f"{str(error).rstrip('.')}. Remove {name} from the formats.") from error
    difference = float(np.nan_to_num(np.abs(softmax(exported, 1) - softmax(logits, 1)).max(), nan=1.0))
    if difference > TOLERANCE:
        raise QualityError(f"The model in the format {name} predicts differently: a probability differs by "
                           f"{difference:.2g}, but only {TOLERANCE:g} is allowed. Nothing was exported. Remove {name} "
                           "from the formats.")
    return difference
