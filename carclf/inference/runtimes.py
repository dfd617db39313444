"""A saved network's answers in a process of its own: ``python -m carclf.inference.runtimes FORMAT FILE FOLDER``.

Reads ``images.npy`` of the folder and writes ``logits.npy`` beside it; only the format's own runtime is imported.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from carclf.errors import QualityError

Array = npt.NDArray[Any]
BATCH_SIZE = 8
MAX_SECONDS = 1200


def predict_logits(name: str, path: Path, pictures: Array) -> Array:
    """Logits (pictures, classes) of a file in a format, from a fresh process; QualityError where it cannot be used."""
    with tempfile.TemporaryDirectory(prefix="carclf-") as folder:
        np.save(Path(folder) / "images.npy", pictures.astype(np.float32))
        # On the CPU: this process may have taken the whole memory of a GPU.
        done = subprocess.run(
            [sys.executable, "-m", "carclf.inference.runtimes", name, str(path), folder], capture_output=True, text=True,
            timeout=MAX_SECONDS, env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"},
        )
        if done.returncode:
            last = " ".join(done.stderr.strip().splitlines()[-1:])[:300]
            raise QualityError(f"The model was written as {name}, and its runtime cannot use it: {last}")
        return np.asarray(np.load(Path(folder) / "logits.npy"))


def _keras(path: Path) -> Callable[[Array], Any]:
    import keras

    return keras.models.load_model(path, compile=False).predict_on_batch  # type: ignore[no-any-return]


def _saved_model(path: Path) -> Callable[[Array], Any]:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    return lambda pictures: loaded.serve(pictures).numpy()


def _onnx(path: Path) -> Callable[[Array], Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pictures: session.run(None, {name: pictures})[0]


def _litert(path: Path) -> Callable[[Array], Any]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    given, told = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def answer(pictures: Array) -> Any:
        interpreter.resize_tensor_input(given, pictures.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given, pictures)
        interpreter.invoke()
        return interpreter.get_tensor(told)

    return answer


LOADERS = {"keras": _keras, "saved_model": _saved_model, "onnx": _onnx, "litert": _litert}


def main(name: str, path: str, folder: str) -> None:
    """Answer the pictures in batches, the last one shorter: the files take any number of pictures."""
    pictures, answer = np.load(Path(folder) / "images.npy"), LOADERS[name](Path(path))
    logits = [np.asarray(answer(pictures[begin : begin + BATCH_SIZE]), float)
              for begin in range(0, len(pictures), BATCH_SIZE)]
    np.save(Path(folder) / "logits.npy", np.concatenate(logits))


if __name__ == "__main__":
    main(*sys.argv[1:])
