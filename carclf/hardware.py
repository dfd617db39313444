"""The machine that a stage runs on: its processor, packages and GPUs."""

import hashlib
import os
import platform
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

PACKAGES = (
    "carclf", "keras", "tensorflow", "jax", "numpy", "albumentations", "grain", "opencv-python-headless", "simplejpeg",
)
# Environment variables that change how the backend computes. No secret has one of these prefixes.
BACKEND_VARIABLES = re.compile(r"(TF|XLA|KERAS|CUDA|OMP|OPENBLAS)_\w+")


@dataclass(frozen=True)
class Gpu:
    """One GPU and its use by all processes, as NVIDIA's management library reports it.

    ``utilization`` is the fraction of the last sampling period in which the GPU was busy, in [0, 1].
    """

    name: str
    utilization: float
    memory_used_bytes: int
    memory_total_bytes: int


def describe_machine() -> dict[str, Any]:
    """Return the machine as JSON: system, processor, cores, memory_gb, gpu, backend, versions and environment.

    ``cores`` counts those that this process may use. ``gpu`` and ``backend`` are empty if Keras was not imported.
    """
    computed = "keras" in sys.modules  # a reused stage does not load a backend only to describe it
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": gpu_name() if computed else "",
        "backend": str(sys.modules["keras"].backend.backend()) if computed else "",
        "versions": package_versions(),
        "environment": {name: os.environ[name] for name in sorted(os.environ) if BACKEND_VARIABLES.fullmatch(name)},
    }


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that affect a result."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):  # jax is optional
            versions[name] = version(name)
    return versions


def code_fingerprint() -> str:
    """Return a SHA-256 of this package's modules, as hexadecimal digits."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _processor() -> str:
    try:
        model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        model = None
    return model[1] if model else platform.machine()


def gpu_devices() -> list[str]:
    """Return the names of the Keras backend's GPU devices."""
    import keras

    try:
        return list(keras.distribution.list_devices("gpu"))
    except RuntimeError:  # raised by JAX on a machine without a GPU
        return []


def gpu_name() -> str:
    """Return the model of the backend's GPUs, with their number if there are several, or an empty string."""
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


def gpu_metrics() -> dict[str, float]:
    """Return this process's largest ``gpu_memory_mb`` on any GPU and the smallest ``gpu_utilization``, if known."""
    import keras

    if not (devices := gpu_devices()):
        return {}
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        used = [tf.config.experimental.get_memory_info(gpu.upper())["current"] for gpu in devices]
    else:
        import jax

        used = [(device.memory_stats() or {}).get("bytes_in_use", 0) for device in jax.devices("gpu")]
    utilizations = [gpu.utilization for gpu in list_gpus()]  # a MIG slice reports none
    return {"gpu_memory_mb": max(used) / 2**20} | ({"gpu_utilization": min(utilizations)} if utilizations else {})


def list_gpus() -> list[Gpu]:
    """Return the GPUs that this process may use (CUDA_VISIBLE_DEVICES); an empty list without an NVIDIA driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver or no GPU
        return []
    try:
        return [gpu for handle in _visible_handles(pynvml) if (gpu := _read_gpu(pynvml, handle))]
    finally:
        pynvml.nvmlShutdown()


def _visible_handles(nvml: Any) -> list[Any]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(n) for n in range(nvml.nvmlDeviceGetCount())] if visible is None else visible.split(",")
    handles = []
    for name in filter(None, (name.strip() for name in names)):
        try:
            if name.isdigit():
                handles.append(nvml.nvmlDeviceGetHandleByIndex(int(name)))
            else:
                handles.append(nvml.nvmlDeviceGetHandleByUUID(name))
        except nvml.NVMLError:  # CUDA also ignores everything after the first invalid device
            break
    return handles


def _read_gpu(nvml: Any, handle: Any) -> Gpu | None:
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        utilization = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
        name = str(nvml.nvmlDeviceGetIndex(handle))
    except nvml.NVMLError:  # a MIG slice does not report its utilization
        return None
    return Gpu(name, utilization, int(memory.used), int(memory.total))
