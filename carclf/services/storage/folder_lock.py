"""The lock of a folder store. It names its holder, so that a waiting process can report who blocks it."""

import fcntl
import os
import platform
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from carclf.errors import ServiceError
from carclf.progress import log

REPORT_SECONDS = 5.0  # a holder needs milliseconds, or seconds on a slow shared disk
LIMIT_SECONDS = 120.0
MAX_PAUSE_SECONDS = 0.05
MAX_NAME_BYTES = 300


@contextmanager
def folder_lock(path: Path) -> Iterator[None]:
    """Hold the exclusive lock of the file, which is created if missing.

    A warning names the holder after REPORT_SECONDS. Raise ServiceError after LIMIT_SECONDS.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _acquire(descriptor, path)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid={os.getpid()} host={platform.node()}".encode()[:MAX_NAME_BYTES], 0)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path) -> None:
    started = time.monotonic()
    is_reported = False
    pause = 0.001
    while not _try_lock(descriptor):
        seconds = time.monotonic() - started
        if seconds > LIMIT_SECONDS:
            raise ServiceError(f"{path} has been locked for {seconds:.0f} s by {_holder(descriptor)}. Continue or end "
                               "that process (kill -CONT or kill), then try again.")
        if seconds > REPORT_SECONDS and not is_reported:
            log.warning("store: waiting for a lock path=%s holder: %s", path, _holder(descriptor))
            is_reported = True
        time.sleep(random.uniform(pause / 2, pause))
        pause = min(2 * pause, MAX_PAUSE_SECONDS)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, MAX_NAME_BYTES, 0).decode(errors="replace") or "an unknown process"
