"""Several GPUs of one machine, by the backend's own data parallelism."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from carclf.gpus import gpus
from carclf.progress import log


@contextmanager
def spread(batch_size: int, devices: list[str] | None = None) -> Iterator[int]:
    """Models made and trained inside use the devices (default: every GPU seen); yields their number.

    Each step's batch is divided among them evenly: of five, a batch of 32 uses four. With one device, or none named,
    nothing changes.
    """
    devices = devices if devices is not None else _gpus()
    num = max((num for num in range(1, len(devices) + 1) if batch_size % num == 0), default=0)
    if num < len(devices):
        log.warning("A batch of %d cannot be divided among %d devices: %d of them are used", batch_size, len(devices),
                    num)
    devices = devices[:num]
    if len(devices) < 2:
        yield 1
        return
    log.info("Training on %d devices: %s", len(devices), ", ".join(devices))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.distribute.MirroredStrategy(devices).scope():
            yield len(devices)
        return
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    try:
        yield len(devices)
    finally:
        keras.distribution.set_distribution(before)


def _gpus() -> list[str]:
    try:
        return list(keras.distribution.list_devices("gpu"))
    except RuntimeError:  # JAX's answer where there is none
        return []


def gpu_name() -> str:
    """The name of the GPU in use, with their number where there are several; "" where there is none."""
    if not (gpus := _gpus()):
        return ""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
        name = str(details.get("device_name", "GPU"))
    else:
        import jax

        name = str(jax.devices("gpu")[0].device_kind)
    return name if len(gpus) == 1 else f"{len(gpus)} x {name}"


def gpu_megabytes() -> float | None:
    """Memory in use on the fullest GPU, in MB; None where there is none."""
    if not (gpus := _gpus()):
        return None
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        used = [tf.config.experimental.get_memory_info(gpu.upper())["current"] for gpu in gpus]
    else:
        import jax

        used = [(device.memory_stats() or {}).get("bytes_in_use", 0) for device in jax.devices("gpu")]
    return float(max(used) / 2**20)


def gpu_figures() -> dict[str, float]:
    """``gpu_memory_mb`` of this process, and ``gpu_use_fraction`` of the idlest GPU; nothing where there is none."""
    if (megabytes := gpu_megabytes()) is None:
        return {}
    used = [gpu.use_fraction for gpu in gpus()]  # not known of a slice of a GPU
    return {"gpu_memory_mb": megabytes} | ({"gpu_use_fraction": min(used)} if used else {})
