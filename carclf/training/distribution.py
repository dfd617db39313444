"""Data-parallel training on several GPUs of one machine, with the backend's implementation."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from carclf.hardware import gpu_devices
from carclf.progress import log


@contextmanager
def data_parallel(batch_size: int, devices: list[str] | None = None) -> Iterator[int]:
    """Distribute models created and trained in the block over the devices; yield the number of devices used.

    The default is every visible GPU. Each batch is divided evenly: of five devices, a batch of 32 uses four. With
    fewer than two devices nothing changes.
    """
    available = gpu_devices() if devices is None else devices
    num = max((num for num in range(1, len(available) + 1) if batch_size % num == 0), default=0)
    if num < len(available):
        log.warning("devices: the batch cannot be divided evenly, not all are used batch_size=%d devices=%d used=%d",
                    batch_size, len(available), num)
    used = available[:num]
    if num <= 1:
        yield 1
        return
    log.info("devices: training on %d: %s", num, ", ".join(used))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.distribute.MirroredStrategy(used).scope():
            yield num
        return
    previous = keras.distribution.distribution()
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=used))
    try:
        yield num
    finally:
        keras.distribution.set_distribution(previous)
