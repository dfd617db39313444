"""Pictures a second of a step that is called again and again."""

import time
from collections.abc import Callable
from typing import Any


def rate(step: Callable[[], Any], batch: int, steps: int, wait: Callable[[], Any] = lambda: None) -> float:
    """Pictures a second of ``steps`` calls, after three that compile and warm up; ``wait`` waits for the device."""
    for _ in range(3):
        step()
    wait()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return steps * batch / (time.perf_counter() - started)
