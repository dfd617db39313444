"""Pictures a second on one GPU, in bfloat16 with random weights, beside the same nets of timm in compiled PyTorch.

Ours is what a run does: Grain's pictures through ``fit`` with the recipe's optimizer. timm's batch lies on the GPU
already, so its figure is the net's alone. Run it with KERAS_BACKEND=jax as well; timm and torch are no part of the
pins: install them beside. Without a GPU ``--device cpu`` tries the code at a tiny size.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # timm's process wants memory too
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

import keras
import numpy as np

from benchmarks.generated_images import write_images
from benchmarks.timing import images_per_second
from carclf.config import Augment, FineTune, load_config
from carclf.pipeline.augmentation import Augmenter
from carclf.pipeline.batches import Examples, TrainingSource, batches
from carclf.pipeline.mixing import BatchMixer
from carclf.training.backbones import build_backbone
from carclf.training.feed import BatchSequence, BatchStream, DataWaitCallback, without_autotune
from carclf.training.heads import build_head, join_backbone_and_head
from carclf.training.precision import compute_precision
from carclf.training.schedules import compile_for_fine_tuning

NETS = {"Xception": (299, 128, "legacy_xception"), "EfficientNetB5": (456, 32, "tf_efficientnet_b5"),
        "ConvNeXtBase": (288, 64, "convnext_base")}
# Dense bfloat16, from NVIDIA's data sheets; a longer name stands before one that it begins with.
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
CLASSES = 10
Figures = dict[str, float]


def ours(name: str, size: int, batch: int, steps: int, folder: Path) -> Figures:
    """Training through ``fit`` on fresh pictures, and prediction of one batch again and again."""
    keras.utils.set_random_seed(0)
    backbone = build_backbone(name, "none", size, size)
    model = join_backbone_and_head(backbone, build_head(backbone.output_shape[-1], CLASSES, load_config("gpu").model))
    index = write_images(folder, 4 * batch)
    examples = Examples.from_index(index, folder, (size, size)).with_decode_cache(str(folder), max_bytes=1e10)
    epochs = 3 + steps // 4  # of four batches
    source = TrainingSource(examples, Augmenter(Augment()), [(size, size)] * epochs, batch, epochs, 0)
    mix = BatchMixer(CLASSES, 0)
    stream = BatchStream(lambda number: batches(source, batch, start_batch=number, mix=mix))
    with compute_precision("bfloat16", model):
        trained, _ = compile_for_fine_tuning(FineTune(epochs=epochs, batch_size=batch), model, source)
        trained.fit(without_autotune(BatchSequence(stream, 0, 8)), epochs=1, verbose=0, shuffle=False)  # compiles
        waited, started = stream.wait_seconds, time.perf_counter()
        waiting = DataWaitCallback(feed := BatchSequence(stream, 8, steps))
        trained.fit(without_autotune(feed), epochs=1, verbose=0, shuffle=False, callbacks=[waiting])
        seconds = time.perf_counter() - started
        waited = stream.wait_seconds - waited
        stream.close()
        pixels = np.stack([source[drawn][0] for drawn in range(batch)])
        predict = images_per_second(lambda: trained.predict_on_batch(pixels), batch, steps)
    return {"train": steps * batch / seconds, "predict": predict, "data_wait": waited / seconds}


def timms(*arguments: object) -> Figures:
    """The same by timm, in a process of its own: two frameworks in one fight for the GPU, and for symbols."""
    command = [sys.executable, "-m", "benchmarks.timm_baseline", *map(str, arguments)]
    found: Figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
    return found


def main() -> None:
    """Each net, ours then timm's, in one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = parser.parse_args()
    chip = _chip()
    if options.device == "cuda" and not chip:
        raise SystemExit("Keras sees no GPU here. Try the code by --device cpu --quick.")
    steps = 8 if options.quick else 100
    found: dict[str, Any] = {}
    for name, (size, batch, peer) in NETS.items():
        if options.device == "cpu":
            size, batch = 96, 4
        with tempfile.TemporaryDirectory() as folder:
            os.environ["CARCLF_CACHE"] = f"{folder}/cache"
            own = ours(name, size, batch, steps, Path(folder))
        theirs = timms(peer, size, batch, steps, options.device)
        # a training step costs three times the forward pass; a multiplication and an addition are two operations
        share = 3 * own["train"] * theirs["flops"] / PEAK[chip] if chip in PEAK else None
        found[name] = {
            "vs_timm_train": round(own["train"] / theirs["train"], 3),
            "vs_timm_predict": round(own["predict"] / theirs["predict"], 3),
            "data_wait": round(own["data_wait"], 4), "share_of_peak": share and round(share, 4),
        }
        print(f"{name:<16}{size:4} px  batch {batch:4}  train {own['train']:8.1f} img/s (timm {theirs['train']:.1f})  "
              f"predict {own['predict']:8.1f} img/s (timm {theirs['predict']:.1f})  data wait {own['data_wait']:.1%}")
    print(json.dumps({"chip": chip or "CPU", "backend": keras.backend.backend(), **found}))


def _chip() -> str:
    """The GPU's model as in ``PEAK``, or its whole name; "" without a GPU."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU") if gpus else ""
    else:
        import jax

        name = next((device.device_kind for device in jax.devices() if device.platform == "gpu"), "")
    return next((chip for chip in PEAK if chip in name), name)


if __name__ == "__main__":
    main()
