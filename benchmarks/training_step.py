"""A training step and a prediction on one machine: carclf, plain Keras and timm, each in a process of its own, in turn.

carclf is measured as in a run: images from Grain through ``fit`` with the recipe's optimizer and the moving average.
The others compute on one batch that is already in memory. All train every block with frozen BatchNormalization.
timm and torch are not among the pinned packages: install them into an environment of their own and name its
interpreter by ``--torch-python``.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.generated_images import write_images
from benchmarks.timing import measure_throughput, repeat_step

NETWORK, TIMM_NETWORK = "EfficientNetV2B0", "tf_efficientnetv2_b0"
SIZE, BATCH_SIZE = 224, 32
NUM_CLASSES = 10
BATCHES_PER_EPOCH = 4
WARMUP_BATCHES = 8
AIRFLOW_LOAD = 0.2  # of a core: the scheduler and the api-server while a task runs
# The environment of each variant's process, and the function that measures it.
VARIANTS: dict[str, tuple[str, dict[str, str]]] = {
    "carclf": ("carclf", {}),
    "carclf without oneDNN": ("carclf", {"TF_ENABLE_ONEDNN_OPTS": "0"}),
    "carclf, bfloat16": ("carclf_bfloat16", {}),
    "carclf on JAX": ("carclf", {"KERAS_BACKEND": "jax"}),
    "carclf with 20% of a core in use": ("carclf_loaded", {}),
    "Keras fit": ("keras", {}),
    "Keras fit without oneDNN": ("keras", {"TF_ENABLE_ONEDNN_OPTS": "0"}),
}
TIMM_VARIANTS = {"timm": (), "timm, compiled": ("--compile",)}


@dataclass(frozen=True)
class Computation:
    """How a network computes: ``model.precision``, ``model.deterministic`` and ``fine_tune.xla``."""

    precision: str = "float32"
    deterministic: bool = True
    xla: bool = False


@dataclass(frozen=True)
class Training:
    """A network compiled for fine-tuning, with its numbered batches and one batch of pixels."""

    model: Any
    stream: Any
    pixels: Any

    def fit(self, start: int, num_batches: int, *callbacks: Any) -> None:
        """Train on the batches from number ``start`` on, and record the time for which steps wait for them."""
        from carclf.training.feed import BatchSequence, DataWaitCallback, without_autotune

        sequence = BatchSequence(self.stream, start, num_batches)
        self.model.fit(without_autotune(sequence), epochs=1, verbose=0, shuffle=False,
                       callbacks=[DataWaitCallback(sequence), *callbacks])


@contextmanager
def compiled_training(
    folder: Path, name: str, shape: tuple[int, int], num_batches: int, computation: Computation
) -> Iterator[Training]:
    """Yield a training of ``num_batches`` batches, after the first WARMUP_BATCHES of them.

    ``folder`` contains the images of BATCHES_PER_EPOCH batches from ``write_images`` and their ``index.csv``.
    ``shape`` is the side of the images and the batch size.
    """
    from carclf.config import Augment, FineTune, load_config
    from carclf.pipeline.augmentation import Augmenter
    from carclf.pipeline.batches import Examples, TrainingSource, batches
    from carclf.pipeline.mixing import BatchMixer
    from carclf.training.backbones import build_backbone
    from carclf.training.compile import make_deterministic
    from carclf.training.feed import BatchStream
    from carclf.training.heads import build_head, join_backbone_and_head
    from carclf.training.precision import compute_precision
    from carclf.training.schedules import compile_for_fine_tuning
    from carclf.training.weights import StartingWeights

    size, batch_size = shape
    make_deterministic(0, kernels=computation.deterministic)
    backbone = build_backbone(name, StartingWeights("none"), size, size)
    head = build_head(backbone.output_shape[-1], NUM_CLASSES, load_config("gpu").model)
    model = join_backbone_and_head(backbone, head)
    index = pd.read_csv(folder / "index.csv", keep_default_na=False)[: BATCHES_PER_EPOCH * batch_size]
    examples = Examples.from_index(index, folder, (size, size)).with_decode_cache(str(folder), max_bytes=1e10)
    epochs = -(-num_batches // BATCHES_PER_EPOCH)
    source = TrainingSource(examples, Augmenter(Augment()), [(size, size)] * epochs, batch_size, epochs, 0)
    mixer = BatchMixer(NUM_CLASSES, 0)
    stream = BatchStream(lambda number: batches(source, batch_size, start_batch=number, mix=mixer))
    pixels = np.stack([source[position][0] for position in range(batch_size)])
    with compute_precision(computation.precision, model):
        settings = FineTune(epochs=epochs, batch_size=batch_size, xla=computation.xla).resolve_auto(name)
        trained, _ = compile_for_fine_tuning(settings, model, source)
        training = Training(trained, stream, pixels)
        training.fit(0, WARMUP_BATCHES)  # compiles
        yield training
    stream.close()


def measure_training(training: Training, steps: int) -> dict[str, Any]:
    """Train through ``fit`` on new images, then predict one batch repeatedly; return the throughputs of both."""
    import keras

    batch_size, stream = len(training.pixels), training.stream
    waited = stream.wait_seconds
    with measure_throughput(steps * batch_size) as train:
        training.fit(WARMUP_BATCHES, steps)
    waited = stream.wait_seconds - waited
    prediction = repeat_step(lambda: training.model.predict_on_batch(training.pixels), batch_size, steps)
    data_wait = waited * train.images_per_second / (steps * batch_size)
    return {"train": asdict(train), "predict": asdict(prediction), "data_wait": data_wait,
            "backend": keras.backend.backend()}


def write_indexed_images(folder: Path, num: int) -> None:
    """Write generated images and their ``index.csv``."""
    write_images(folder, num, num_classes=NUM_CLASSES).to_csv(folder / "index.csv", index=False)


def _measure_carclf(steps: int, precision: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CARCLF_CACHE"] = f"{folder}/cache"
        write_indexed_images(Path(folder), BATCHES_PER_EPOCH * BATCH_SIZE)
        num_batches, computation = WARMUP_BATCHES + steps, Computation(precision)
        with compiled_training(Path(folder), NETWORK, (SIZE, BATCH_SIZE), num_batches, computation) as training:
            return measure_training(training, steps)


def measure_keras(name: str, size: int, batch_size: int, steps: int) -> dict[str, Any]:
    """Train the network by ``fit`` with Keras' AdamW on one batch, and predict it; return the throughputs of both."""
    import keras

    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None, classes=NUM_CLASSES, input_shape=(size, size, 3))
    for layer in model.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    model.compile("adamw", loss="sparse_categorical_crossentropy", jit_compile=False)
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, size, size, 3)).astype("float32")
    labels = np.arange(batch_size) % NUM_CLASSES
    repeated, repeated_labels = np.tile(pixels, (steps, 1, 1, 1)), np.tile(labels, steps)
    model.fit(repeated[: 3 * batch_size], repeated_labels[: 3 * batch_size], batch_size=batch_size, verbose=0)
    with measure_throughput(steps * batch_size) as train:
        model.fit(repeated, repeated_labels, batch_size=batch_size, verbose=0)
    prediction = repeat_step(lambda: model.predict_on_batch(pixels), batch_size, steps)
    return {"train": asdict(train), "predict": asdict(prediction)}


@contextmanager
def background_load(fraction: float) -> Iterator[None]:
    """Use a fraction of one core in another process, a period of 20 ms at a time."""
    code = ("import sys, time\n"
            "while True:\n"
            "    end = time.perf_counter() + 0.02 * float(sys.argv[1])\n"
            "    while time.perf_counter() < end: pass\n"
            "    time.sleep(0.02 * (1 - float(sys.argv[1])))")
    process = subprocess.Popen([sys.executable, "-c", code, str(fraction)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measure_timm(python: str, *arguments: object) -> dict[str, Any]:
    """Run the timm baseline in a new process: two frameworks in one process compete for the GPU and for symbols."""
    return _run([python, "-m", "benchmarks.timm_baseline", *map(str, arguments)], {})


def _run(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ | environment).stdout
    return dict(json.loads(output.splitlines()[-1]))


def _run_variant(variant: str, steps: int, torch_python: str) -> dict[str, Any]:
    if variant in TIMM_VARIANTS:
        flags = ("--device", "cpu", "--frozen-batch-norm", *TIMM_VARIANTS[variant])
        return measure_timm(torch_python, TIMM_NETWORK, SIZE, BATCH_SIZE, steps, *flags)
    measured, environment = VARIANTS[variant]
    command = [sys.executable, "-m", "benchmarks.training_step", "--measure", measured, "--steps", str(steps)]
    return _run(command, {"TF_CPP_MIN_LOG_LEVEL": "3"} | environment)


def _measure(measured: str, steps: int) -> dict[str, Any]:
    import carclf  # noqa: F401  # turns oneDNN on

    if measured == "keras":
        return measure_keras(NETWORK, SIZE, BATCH_SIZE, steps)
    precision = "bfloat16" if measured == "carclf_bfloat16" else "float32"
    with background_load(AIRFLOW_LOAD) if measured == "carclf_loaded" else nullcontext():
        return _measure_carclf(steps, precision)


def main() -> None:
    """Measure each variant once per round and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--variants", default="", help="Only these, separated by |.")
    parser.add_argument("--torch-python", default="", help="The interpreter of an environment with timm and torch.")
    parser.add_argument("--quick", action="store_true", help="One round of four steps.")
    parser.add_argument("--measure", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(_measure(options.measure, options.steps)))
        return
    rounds, steps = (1, 4) if options.quick else (options.rounds, options.steps)
    variants = [*VARIANTS, *(TIMM_VARIANTS if options.torch_python else ())]
    variants = [name for name in variants if not options.variants or name in options.variants.split("|")]
    rows = []
    for _ in range(rounds):
        for variant in variants:
            result = _run_variant(variant, steps, options.torch_python)
            values = {f"{phase} {unit}": value for phase in ("train", "predict")
                      for unit, value in result[phase].items()}
            print(variant, {name: round(value, 1) for name, value in values.items()}, flush=True)
            rows.append({"variant": variant, **values})
    table = pd.DataFrame(rows).groupby("variant", sort=False)
    print(table.median().round(1).to_string())
    print(json.dumps({"rounds": rounds, "steps": steps, **table.median().round(2).to_dict("index")}))


if __name__ == "__main__":
    main()
