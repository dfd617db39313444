"""What the GPUs of this machine are doing, by NVIDIA's management library; nothing where there is none."""


import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Gpu:
    """One GPU: the share of the last moments in which it computed, in [0, 1], and its memory in bytes."""

    name: str
    utilization: float
    memory_used_bytes: int
    memory_total_bytes: int


def list_gpus() -> list[Gpu]:
    """The GPUs that this process may use (CUDA_VISIBLE_DEVICES), and what all processes do on them."""
    with _library() as nvml:
        if nvml is None:
            return []
        return [gpu for handle in _handles(nvml) if (gpu := _asked(nvml, handle))]


@contextmanager
def _library() -> Iterator[Any]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver, or no GPU
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _handles(nvml: Any) -> list[Any]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(n) for n in range(nvml.nvmlDeviceGetCount())] if visible is None else visible.split(",")
    found = []
    for name in filter(None, (name.strip() for name in names)):
        try:
            found.append(nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit()
                         else nvml.nvmlDeviceGetHandleByUUID(name))
        except nvml.NVMLError:  # CUDA ends the list at the first that is not there, too
            break
    return found


def _asked(nvml: Any, handle: Any) -> Gpu | None:
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return Gpu(str(nvml.nvmlDeviceGetIndex(handle)), nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
                   int(memory.used), int(memory.total))
    except nvml.NVMLError:  # a slice of a GPU (MIG) does not say how much it is used
        return None

PACKAGES = ("carclf", "keras", "tensorflow", "jax", "numpy", "albumentations", "grain", "opencv-python-headless",
            "simplejpeg")
# Of the environment: what changes how the backend computes. No secret begins with these.
FLAGS = re.compile(r"(TF|XLA|KERAS|CUDA|OMP|OPENBLAS)_\w+")


def describe_machine() -> dict[str, Any]:
    """``system``, ``processor``, ``cores`` (this process may use), ``memory_gb``, ``gpu``, ``backend`` ("" for the last
    two where nothing was computed), ``versions`` of the packages that are there, ``flags`` of the environment.
    """
    return {
        "system": platform.platform(), "processor": _processor(), "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1), "gpu": _gpu(), "backend": _backend(),
        "versions": package_versions(),
        "flags": {name: value for name, value in sorted(os.environ.items()) if FLAGS.fullmatch(name)},
    }


def package_versions() -> dict[str, str]:
    """The versions of what decides a figure, by package, and of Python."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # jax, where nobody trains with it
            continue
    return found


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def _backend() -> str:
    return str(sys.modules["keras"].backend.backend()) if "keras" in sys.modules else ""


def _gpu() -> str:
    """The GPU that this process computes on, "" where it computes on none; a reused stage loads nothing to know."""
    if "keras" not in sys.modules:
        return ""
    return gpu_name()


def gpu_name() -> str:
    """The name of the GPU in use, with their number where there are several; "" where there is none."""
    import keras

    if not (devices := gpu_devices()):
        return ""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
        name = str(details.get("device_name", "GPU"))
    else:
        import jax

        name = str(jax.devices("gpu")[0].device_kind)
    return name if len(devices) == 1 else f"{len(devices)} x {name}"


def gpu_megabytes() -> float | None:
    """Memory in use on the fullest GPU, in MB; None where there is none."""
    import keras

    if not (devices := gpu_devices()):
        return None
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        used = [tf.config.experimental.get_memory_info(gpu.upper())["current"] for gpu in devices]
    else:
        import jax

        used = [(device.memory_stats() or {}).get("bytes_in_use", 0) for device in jax.devices("gpu")]
    return float(max(used) / 2**20)


def gpu_metrics() -> dict[str, float]:
    """``gpu_memory_mb`` of this process, and ``gpu_utilization`` of the idlest GPU; nothing where there is none."""
    if (megabytes := gpu_megabytes()) is None:
        return {}
    used = [gpu.utilization for gpu in list_gpus()]  # not known of a slice of a GPU
    return {"gpu_memory_mb": megabytes} | ({"gpu_utilization": min(used)} if used else {})


def gpu_devices() -> list[str]:
    """Return the backend's GPU devices."""
    import keras

    try:
        return list(keras.distribution.list_devices("gpu"))
    except RuntimeError:  # JAX's answer where there is none
        return []
