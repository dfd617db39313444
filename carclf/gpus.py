"""What the GPUs of this machine are doing, by NVIDIA's management library; nothing where there is none."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One GPU: the share of the last moments in which it computed, in [0, 1], and its memory in bytes."""

    name: str
    use_fraction: float
    memory_bytes: int
    memory_limit_bytes: int


def gpus() -> list[Gpu]:
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
