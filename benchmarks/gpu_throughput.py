"""Training and prediction throughput on one GPU, compared with the same networks of timm in compiled PyTorch.

Both compute in bfloat16 with random weights. carclf is measured as in a run: images from Grain through ``fit`` with
the recipe's optimizer. timm's batch is on the GPU already, so its throughput is that of the network alone. Run this
with KERAS_BACKEND=jax as well. timm and torch are not among the pinned packages; install them separately. Without a
GPU, ``--device cpu`` tests the code at a tiny size.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # timm's process needs memory too
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

import keras
import numpy as np

from benchmarks.generated_images import write_images
from benchmarks.timing import images_per_second
from carclf.config import Augment, FineTune, load_config
from carclf.hardware import gpu_name
from carclf.pipeline.augmentation import Augmenter
from carclf.pipeline.batches import Examples, TrainingSource, batches
from carclf.pipeline.mixing import BatchMixer
from carclf.training.backbones import build_backbone
from carclf.training.feed import BatchSequence, BatchStream, DataWaitCallback, without_autotune
from carclf.training.heads import build_head, join_backbone_and_head
from carclf.training.precision import compute_precision
from carclf.training.schedules import compile_for_fine_tuning

NETWORKS = {"Xception": (299, 128, "legacy_xception"), "EfficientNetB5": (456, 32, "tf_efficientnet_b5"),
            "ConvNeXtBase": (288, 64, "convnext_base")}  # size, batch size, name in timm
CPU_SIZE, CPU_BATCH_SIZE = 96, 4
# Dense bfloat16 operations per second, from NVIDIA's data sheets; a longer name before a name that it starts with.
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
NUM_CLASSES = 10
BATCHES_PER_EPOCH = 4
WARMUP_BATCHES = 8
TRAINING_COST = 3  # forward passes


def measure_carclf(name: str, size: int, batch_size: int, steps: int, folder: Path) -> dict[str, float]:
    """Train through ``fit`` on new images, then predict one batch repeatedly; return images per second."""
    keras.utils.set_random_seed(0)
    backbone = build_backbone(name, "none", size, size)
    head = build_head(backbone.output_shape[-1], NUM_CLASSES, load_config("gpu").model)
    model = join_backbone_and_head(backbone, head)
    index = write_images(folder, BATCHES_PER_EPOCH * batch_size)
    examples = Examples.from_index(index, folder, (size, size)).with_decode_cache(str(folder), max_bytes=1e10)
    epochs = 3 + steps // BATCHES_PER_EPOCH
    source = TrainingSource(examples, Augmenter(Augment()), [(size, size)] * epochs, batch_size, epochs, 0)
    mixer = BatchMixer(NUM_CLASSES, 0)
    stream = BatchStream(lambda number: batches(source, batch_size, start_batch=number, mix=mixer))
    with compute_precision("bfloat16", model):
        trained, _ = compile_for_fine_tuning(FineTune(epochs=epochs, batch_size=batch_size), model, source)
        warmup = BatchSequence(stream, 0, WARMUP_BATCHES)
        trained.fit(without_autotune(warmup), epochs=1, verbose=0, shuffle=False)  # compiles
        waited, started = stream.wait_seconds, time.perf_counter()
        sequence = BatchSequence(stream, WARMUP_BATCHES, steps)
        callbacks = [DataWaitCallback(sequence)]
        trained.fit(without_autotune(sequence), epochs=1, verbose=0, shuffle=False, callbacks=callbacks)
        seconds = time.perf_counter() - started
        waited = stream.wait_seconds - waited
        stream.close()
        pixels = np.stack([source[position][0] for position in range(batch_size)])
        predict = images_per_second(lambda: trained.predict_on_batch(pixels), batch_size, steps)
    return {"train": steps * batch_size / seconds, "predict": predict, "data_wait": waited / seconds}


def measure_timm(*arguments: object) -> dict[str, float]:
    """Run the timm baseline in a new process: two frameworks in one process compete for the GPU and for symbols."""
    command = [sys.executable, "-m", "benchmarks.timm_baseline", *map(str, arguments)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return dict(json.loads(output.splitlines()[-1]))


def compare(name: str, steps: int, device: str, chip: str) -> dict[str, float | None]:
    """Measure one network, carclf first, print a line, and return the ratios to timm."""
    size, batch_size, timm_name = NETWORKS[name]
    if device == "cpu":
        size, batch_size = CPU_SIZE, CPU_BATCH_SIZE
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CARCLF_CACHE"] = f"{folder}/cache"
        carclf = measure_carclf(name, size, batch_size, steps, Path(folder))
    timm = measure_timm(timm_name, size, batch_size, steps, device)
    print(f"{name:<16}{size:4} px  batch {batch_size:4}  "
          f"train {carclf['train']:8.1f} img/s (timm {timm['train']:.1f})  "
          f"predict {carclf['predict']:8.1f} img/s (timm {timm['predict']:.1f})  data wait {carclf['data_wait']:.1%}")
    peak_fraction = None
    if chip in PEAK:
        peak_fraction = round(TRAINING_COST * carclf["train"] * timm["flops"] / PEAK[chip], 4)
    return {
        "vs_timm_train": round(carclf["train"] / timm["train"], 3),
        "vs_timm_predict": round(carclf["predict"] / timm["predict"], 3),
        "data_wait": round(carclf["data_wait"], 4),
        "peak_fraction": peak_fraction,
    }


def main() -> None:
    """Measure each network with carclf and timm, in one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = parser.parse_args()
    chip = _chip()
    if options.device == "cuda" and not chip:
        raise SystemExit("Keras sees no GPU. Test the code with --device cpu --quick.")
    steps = 8 if options.quick else 100
    results = {name: compare(name, steps, options.device, chip) for name in NETWORKS}
    print(json.dumps({"chip": chip or "CPU", "backend": keras.backend.backend(), **results}))


def _chip() -> str:
    """Return the GPU's model as in ``PEAK``, or its full name; an empty string without a GPU."""
    name = gpu_name()
    return next((chip for chip in PEAK if chip in name), name)


if __name__ == "__main__":
    main()
