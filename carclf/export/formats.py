"""A trained network in other runtimes' formats, through Keras' own export, each asked for its answers afterwards."""

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

# Of a probability. Measured on CPUs: below 1e-6 for every format; a GPU's reduced precision is allowed for.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class ExportFormat:
    """Its file or folder, the name that Keras has for it ("" for its own), and the modules that it needs."""

    file: str
    name: str
    modules: tuple[str, ...] = ()


FORMATS = {
    "keras": ExportFormat("model.keras", ""),
    "saved_model": ExportFormat("saved_model", "tf_saved_model"),
    "onnx": ExportFormat("model.onnx", "onnx", ("tf2onnx", "onnx", "onnxruntime")),
    "litert": ExportFormat("model.tflite", "litert", ("ai_edge_litert",)),
}


def require_formats(formats: Sequence[str]) -> None:
    """ConfigError for a format that is not known, or that this environment cannot make and check."""
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ConfigError(f"There is no format {unknown[0]!r}. Give some of {','.join(FORMATS)}.")
    if set(formats) - {"keras"} and keras.backend.backend() != "tensorflow":
        raise ConfigError("Only TensorFlow writes other formats than keras. Set KERAS_BACKEND=tensorflow.")
    missing = [(name, module) for name in formats for module in FORMATS[name].modules
               if importlib.util.find_spec(module) is None]
    if missing:
        packages = " ".join(module.replace("_", "-") for _, module in missing)
        raise ConfigError(f"The format {missing[0][0]} needs packages that are not here: pip install {packages}; or "
                          "leave it out of --format.")


def export_network(name: str, network: keras.Model, size: tuple[int, int], source: Path, folder: Path) -> Path:
    """The network in a format: float32 pictures (batch, height, width, 3) of 0..255 to logits (batch, classes)."""
    path = folder / FORMATS[name].file
    if name == "keras":
        shutil.copyfile(source, path)
        return path
    _hold_constants(network)
    pictures = keras.InputSpec(shape=(None, *size, 3), dtype="float32", name="pictures")
    network.export(str(path), format=FORMATS[name].name, input_signature=[pictures], verbose=False)
    return path


def _hold_constants(network: keras.Model) -> None:
    # tf2onnx takes a tensor that a graph captured for one of its inputs; an array becomes a constant of the graph.
    for layer in flatten_layers(network):
        if isinstance(layer, keras.layers.Normalization) and layer.input_mean is not None:
            layer.mean, layer.variance = (np.asarray(value) for value in (layer.mean, layer.variance))


def check_exported(name: str, path: Path, pictures: npt.NDArray[Any], logits: npt.NDArray[Any]) -> float:
    """The largest difference of a probability from the logits, as the format's own runtime answers in a new process.

    QualityError where it is above TOLERANCE, or the file cannot be loaded.
    """
    told = predict_logits(name, path, pictures)
    found = float(np.nan_to_num(np.abs(softmax(told, 1) - softmax(logits, 1)).max(), nan=1.0))
    if found > TOLERANCE:
        raise QualityError(f"The model written as {name} answers otherwise: a probability differs by {found:.2g}, and "
                           f"{TOLERANCE:g} is allowed. Nothing was exported; leave the format out of --format.")
    return found
