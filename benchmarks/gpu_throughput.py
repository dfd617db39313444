"""Training on one GPU: deterministic kernels, XLA and precision, and the cost of a checkpoint, by measurement.

Each variant runs in a process of its own, because TensorFlow keeps deterministic kernels until its process ends.
carclf is measured as in a run: images from Grain through ``fit`` with the recipe's optimizer, and random weights.
Run this with KERAS_BACKEND=jax as well, where only the precision varies. ``--torch-python`` names the interpreter of an
environment with timm and torch, which are not among the pinned packages, and adds timm's speed in compiled PyTorch; its
batch is on the GPU already. ``--quick`` tests the code with the Tiny backbone, also without a GPU.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # timm's process needs memory too
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

import keras

from benchmarks.training_step import (
    BATCHES_PER_EPOCH,
    WARMUP_BATCHES,
    Computation,
    Training,
    compiled_training,
    measure_timm,
    measure_training,
    write_indexed_images,
)
from carclf.hardware import gpu_name
from carclf.services.storage import open_store
from carclf.training.checkpoints import Checkpoints, CheckpointWriter

# Side of the images, batch size, name in timm.
NETWORKS = {"EfficientNetV2S": (384, 32, "tf_efficientnetv2_s"), "ConvNeXtTiny": (288, 64, "convnext_tiny")}
QUICK_NETWORKS = {"Tiny": (64, 8, "")}
STEPS, QUICK_STEPS = 60, 4
# Dense bfloat16 operations per second, from NVIDIA's data sheets; a longer name before a name that it starts with.
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
TRAINING_COST = 3  # forward passes


class SaveAtFirstStep(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
    """Save a checkpoint with new best weights after the first step, as the trainer does."""

    def __init__(self, writer: CheckpointWriter, *, background: bool) -> None:
        super().__init__()
        self.writer = writer
        self.background = background
        self.num_bytes = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Copy the variables to the host and start to write them; without ``background``, wait for the end."""
        if batch:
            return
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        variables = [*self.model.variables, *self.model.optimizer.variables]
        arrays, best = [keras.ops.convert_to_numpy(variable) for variable in variables], self.model.get_weights()
        self.num_bytes = sum(array.nbytes for array in [*arrays, *best])
        self.writer.save(arrays, best, {"step": 1})
        if not self.background:
            self.writer.wait()


def measure_checkpoints(training: Training, steps: int, folder: Path) -> dict[str, float]:
    """Return the seconds that one checkpoint adds to ``steps`` steps, in the foreground and in the background."""

    def seconds(start: int, *callbacks: Any) -> float:
        started = time.perf_counter()
        training.fit(start, steps, *callbacks)
        return time.perf_counter() - started

    start = WARMUP_BATCHES + steps
    plain = seconds(start)
    result: dict[str, float] = {}
    with CheckpointWriter(Checkpoints(open_store(str(folder / "store")), "benchmark")) as writer:
        for number, kind in enumerate(("foreground", "background"), 1):
            callback = SaveAtFirstStep(writer, background=kind == "background")
            result[f"{kind}_seconds"] = seconds(start + number * steps, callback) - plain
            result["megabytes"] = callback.num_bytes / 1e6
            started = time.perf_counter()
            writer.wait()
            result["seconds_after_the_last_step"] = time.perf_counter() - started
    return result


def peak_megabytes() -> float:
    """Return the largest use of GPU memory by this process, or without a GPU of main memory."""
    if not gpu_name():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return float(tf.config.experimental.get_memory_info("GPU:0")["peak"]) / 2**20
    import jax

    return float((jax.devices("gpu")[0].memory_stats() or {}).get("peak_bytes_in_use", 0)) / 2**20


def measure(options: argparse.Namespace, computation: Computation) -> dict[str, Any]:
    """Return the measurements of one variant in this process."""
    folder = Path(options.images)
    size, batch_size, _ = (NETWORKS | QUICK_NETWORKS)[options.measure]
    num_batches = WARMUP_BATCHES + 4 * options.steps
    with (
        tempfile.TemporaryDirectory() as store,
        compiled_training(folder, options.measure, (size, batch_size), num_batches, computation) as training,
    ):
        result = measure_training(training, options.steps)
        peak = peak_megabytes()  # before the checkpoints, which use main memory
        checkpoint = measure_checkpoints(training, options.steps, Path(store))
    return {"train": result["train"]["images_per_second"], "predict": result["predict"]["images_per_second"],
            "data_wait": result["data_wait"], "peak_mb": peak, "checkpoint": checkpoint}


def run_variant(name: str, computation: Computation, steps: int, images: str) -> dict[str, Any]:
    """Measure one variant in a new process; a variant that fails, for example for lack of memory, has an "error"."""
    command = [sys.executable, "-m", "benchmarks.gpu_throughput", "--measure", name, "--steps", str(steps),
               "--images", images, "--computation", json.dumps(asdict(computation))]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        return {"error": (process.stderr.strip().splitlines() or ["killed"])[-1][:300]}
    return dict(json.loads(process.stdout.splitlines()[-1]))


def computations(*, quick: bool) -> list[Computation]:
    """Return the variants: all of them, or for ``quick`` the default and its opposite."""
    if quick:
        return [Computation(), Computation("bfloat16", deterministic=False, xla=keras.backend.backend() != "jax")]
    switches = ((True, False), (False, False), (False, True))  # deterministic kernels exclude XLA
    if keras.backend.backend() != "tensorflow":
        switches = ((True, False),)
    return [Computation(precision, *switch) for precision in ("float32", "bfloat16") for switch in switches]


def measure_network(name: str, options: argparse.Namespace, images: str) -> dict[str, Any]:
    """Measure each variant of a network, print a line for each, and return all of them."""
    rows = []
    for computation in computations(quick=options.quick):
        row = asdict(computation) | run_variant(name, computation, options.steps, images)
        print(f"{name} {_format(row)}", flush=True)
        rows.append(row)
    result: dict[str, Any] = {"carclf": rows}
    size, batch_size, timm_name = (NETWORKS | QUICK_NETWORKS)[name]
    if options.torch_python and timm_name:
        flags = ("--device", "cuda", "--frozen-batch-norm", "--compile", "--bfloat16")
        timm = measure_timm(options.torch_python, timm_name, size, batch_size, options.steps, *flags)
        result["timm"] = {phase: timm[phase]["images_per_second"] for phase in ("train", "predict")}
        print(f"{name} timm {result['timm']}", flush=True)
        fastest = max(row.get("train", 0.0) for row in rows)
        if peak := next((PEAK[chip] for chip in PEAK if chip in gpu_name()), None):
            result["peak_fraction"] = TRAINING_COST * fastest * timm["flops"] / peak
    return result


def _format(row: dict[str, Any]) -> str:
    variant = f"{row['precision']} deterministic={row['deterministic']} xla={row['xla']}: "
    if "error" in row:
        return f"{variant}failed: {row['error']}"
    checkpoint = row["checkpoint"]
    foreground, background = checkpoint["foreground_seconds"], checkpoint["background_seconds"]
    return (f"{variant}train {row['train']:.1f} img/s  predict {row['predict']:.1f} img/s  "
            f"data wait {row['data_wait']:.1%}  peak {row['peak_mb']:.0f} MB  "
            f"checkpoint of {checkpoint['megabytes']:.0f} MB adds {foreground:.1f} s, {background:.1f} s in background")


def main() -> None:
    """Measure every variant of each network, in one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Two variants of the Tiny backbone, also without a GPU.")
    parser.add_argument("--steps", type=int, default=STEPS, help="Steps of each measurement.")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="Only these, separated by commas.")
    parser.add_argument("--torch-python", default="", help="The interpreter of an environment with timm and torch.")
    parser.add_argument("--measure", default="", help=argparse.SUPPRESS)
    parser.add_argument("--computation", default="{}", help=argparse.SUPPRESS)
    parser.add_argument("--images", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options, Computation(**json.loads(options.computation)))))
        return
    chip = gpu_name()
    if not chip and not options.quick:
        raise SystemExit(f"Keras with {keras.backend.backend()} sees no GPU, so nothing was measured. Install the GPU "
                         "requirements on a machine with a GPU, or test the code with --quick.")
    networks = QUICK_NETWORKS if options.quick else {name: NETWORKS[name] for name in options.networks.split(",")}
    options.steps = QUICK_STEPS if options.quick else options.steps
    with tempfile.TemporaryDirectory() as images:
        os.environ["CARCLF_CACHE"] = f"{images}/cache"
        write_indexed_images(Path(images), BATCHES_PER_EPOCH * max(batch for _, batch, _ in networks.values()))
        results = {name: measure_network(name, options, images) for name in networks}
    print(json.dumps({"chip": chip or "CPU", "backend": keras.backend.backend(), "steps": options.steps, **results}))


if __name__ == "__main__":
    main()
