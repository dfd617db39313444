"""Throughput of a step that is called repeatedly, and processor time of this process and its children."""

import resource
import time
from collections.abc import Callable
from typing import Any

WARMUP_STEPS = 3


def images_per_second(step: Callable[[], Any], batch: int, steps: int, wait: Callable[[], Any] = lambda: None) -> float:
    """Return images per second of ``steps`` calls after warm-up and compilation; ``wait`` synchronizes the device."""
    for _ in range(WARMUP_STEPS):
        step()
    wait()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return steps * batch / (time.perf_counter() - started)


def cpu_seconds() -> float:
    """Return the processor time of this process and its finished children; other load affects it less than time."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
