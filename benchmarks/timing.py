"""Throughput of a step that is called repeatedly, and processor time of this process and its children."""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

WARMUP_STEPS = 3


@dataclass
class Throughput:
    """Images per second, and milliseconds of processor time per image."""

    images_per_second: float = 0.0
    cpu_milliseconds: float = 0.0


@contextmanager
def measure_throughput(num_images: int) -> Iterator[Throughput]:
    """Measure the block, which processes this number of images."""
    throughput = Throughput()
    started, cpu_started = time.perf_counter(), cpu_seconds()
    yield throughput
    throughput.images_per_second = num_images / (time.perf_counter() - started)
    throughput.cpu_milliseconds = 1000 * (cpu_seconds() - cpu_started) / num_images


def repeat_step(step: Callable[[], Any], batch: int, steps: int, wait: Callable[[], Any] = lambda: None) -> Throughput:
    """Return the throughput of ``steps`` calls after warm-up and compilation; ``wait`` synchronizes the device."""
    for _ in range(WARMUP_STEPS):
        step()
    wait()
    with measure_throughput(steps * batch) as throughput:
        for _ in range(steps):
            step()
        wait()
    return throughput


def cpu_seconds() -> float:
    """Return the processor time of this process and its finished children; other load affects it less than time."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
