"""Several GPUs of one machine, by the backend's own data parallelism."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from carclf.hardware import gpu_devices
from carclf.progress import log


@contextmanager
def data_parallel(batch_size: int, devices: list[str] | None = None) -> Iterator[int]:
    """Models made and trained inside use the devices (default: every GPU seen); yields their number.

    Each step's batch is divided among them evenly: of five, a batch of 32 uses four. With one device, or none named,
    nothing changes.
    """
    devices = devices if devices is not None else gpu_devices()
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
