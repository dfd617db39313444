"""Pictures a second of a step that is called again and again, and what a measurement took of the processors."""

import resource
import time
from collections.abc import Callable
from typing import Any


def images_per_second(step: Callable[[], Any], batch: int, steps: int, wait: Callable[[], Any] = lambda: None) -> float:
    """Pictures a second of ``steps`` calls, after three that compile and warm up; ``wait`` waits for the device."""
    for _ in range(3):
        step()
    wait()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return steps * batch / (time.perf_counter() - started)


def cpu_seconds() -> float:
    """Of all processors, by this process and those that it has waited for: less disturbed by other work than time."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)
