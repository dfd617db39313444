"""Logits of a saved network, from a new process: ``python -m carclf.inference.runtimes FORMAT FILE FOLDER``.

The process reads ``images.npy`` in the folder, writes ``logits.npy``, and imports only the runtime of the format.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from carclf.errors import QualityError
from carclf.networks import load_network
from carclf.temporary import temporary_folder

Array = npt.NDArray[Any]
PredictFunction = Callable[[Array], Any]  # images (batch, height, width, 3) to logits (batch, classes)
BATCH_SIZE = 8
MAX_SECONDS = 1200
MAX_REASON = 300  # characters of the runtime's message in our error


def predict_logits(name: str, path: Path, images: Array) -> Array:
    """Return logits (images, classes) of a file in the format of this name, computed by a new process on the CPU.

    Raise QualityError if the runtime of the format cannot load the file or predict with it.
    """
    with temporary_folder() as folder:
        np.save(folder / "images.npy", images.astype(np.float32))
        process = subprocess.run(
            [sys.executable, "-m", "carclf.inference.runtimes", name, str(path), folder],
            capture_output=True, text=True, timeout=MAX_SECONDS, check=False,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"},  # the parent process may use all of the GPU's memory
        )
        if process.returncode:
            reason = " ".join(process.stderr.strip().splitlines()[-1:])[:MAX_REASON]
            raise QualityError(f"{name} cannot load {path.name}: {reason}")
        return np.asarray(np.load(folder / "logits.npy"))


def _load_keras(path: Path) -> PredictFunction:
    return load_network(path).predict_on_batch  # type: ignore[no-any-return]


def _load_saved_model(path: Path) -> PredictFunction:
    import tensorflow as tf

    model = tf.saved_model.load(str(path))
    return lambda images: model.serve(images).numpy()


def _load_onnx(path: Path) -> PredictFunction:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    input_name = session.get_inputs()[0].name
    return lambda images: session.run(None, {input_name: images})[0]


def _load_litert(path: Path) -> PredictFunction:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    input_index = interpreter.get_input_details()[0]["index"]
    output_index = interpreter.get_output_details()[0]["index"]

    def predict(images: Array) -> Any:
        interpreter.resize_tensor_input(input_index, images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(input_index, images)
        interpreter.invoke()
        return interpreter.get_tensor(output_index)

    return predict


LOADERS: dict[str, Callable[[Path], PredictFunction]] = {
    "keras": _load_keras, "saved_model": _load_saved_model, "onnx": _load_onnx, "litert": _load_litert,
}


def main(name: str, path: str, folder: str) -> None:
    """Predict in batches. The last batch may be shorter: the files accept any number of images."""
    images = np.load(Path(folder) / "images.npy")
    predict = LOADERS[name](Path(path))
    starts = range(0, len(images), BATCH_SIZE)
    logits = [np.asarray(predict(images[start : start + BATCH_SIZE]), float) for start in starts]
    np.save(Path(folder) / "logits.npy", np.concatenate(logits))


if __name__ == "__main__":
    main(*sys.argv[1:])
