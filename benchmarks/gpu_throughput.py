"""Training and prediction throughput on one GPU, compared with the same networks of timm in compiled PyTorch.

Both compute in bfloat16 with random weights. carclf is measured as in a run: images from Grain through ``fit`` with
the recipe's optimizer. timm's batch is on the GPU already, so its throughput is that of the network alone. Run this
with KERAS_BACKEND=jax as well. timm and torch are not among the pinned packages; install them separately. Without a
GPU, ``--device cpu`` tests the code at a tiny size.
"""

import argparse
import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # timm's process needs memory too
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

import keras

from benchmarks.training_step import measure_carclf, measure_timm
from carclf.hardware import gpu_name

NETWORKS = {"Xception": (299, 128, "legacy_xception"), "EfficientNetB5": (456, 32, "tf_efficientnet_b5"),
            "ConvNeXtBase": (288, 64, "convnext_base")}  # size, batch size, name in timm
CPU_SIZE, CPU_BATCH_SIZE = 96, 4
# Dense bfloat16 operations per second, from NVIDIA's data sheets; a longer name before a name that it starts with.
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
TRAINING_COST = 3  # forward passes


def compare(name: str, steps: int, device: str, chip: str) -> dict[str, float | None]:
    """Measure one network, carclf first, print a line, and return the ratios to timm."""
    size, batch_size, timm_name = NETWORKS[name]
    if device == "cpu":
        size, batch_size = CPU_SIZE, CPU_BATCH_SIZE
    carclf = measure_carclf(name, size, batch_size, steps, "bfloat16")
    flags = ("--device", device, "--compile", "--bfloat16")
    timm = measure_timm(sys.executable, timm_name, size, batch_size, steps, *flags)
    train, predict, timm_train, timm_predict = (
        measured[phase]["images_per_second"] for measured in (carclf, timm) for phase in ("train", "predict")
    )
    print(f"{name:<16}{size:4} px  batch {batch_size:4}  "
          f"train {train:8.1f} img/s (timm {timm_train:.1f})  "
          f"predict {predict:8.1f} img/s (timm {timm_predict:.1f})  data wait {carclf['data_wait']:.1%}")
    peak_fraction = None
    if chip in PEAK:
        peak_fraction = round(TRAINING_COST * train * timm["flops"] / PEAK[chip], 4)
    return {
        "vs_timm_train": round(train / timm_train, 3),
        "vs_timm_predict": round(predict / timm_predict, 3),
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
