"""Concurrent updates of a single object."""

import random
import time
from collections.abc import Callable

from carclf.errors import ServiceError
from carclf.services.storage.protocol import Store

LIMIT_SECONDS = 120.0
INITIAL_BACKOFF_SECONDS = 0.01
MAX_BACKOFF_SECONDS = 2.0


def update_object(store: Store, key: str, change: Callable[[bytes | None], bytes | None]) -> None:
    """Replace the object by ``change(data)`` with compare-and-swap, so that no concurrent update is lost.

    ``change`` gets None if the object does not exist, and returns None to leave it as it is. It is called again if
    another writer was faster. Raise ServiceError after LIMIT_SECONDS.
    """
    started = time.monotonic()
    num_attempts = 0
    while True:
        current = store.read(key)
        data = change(current.data if current else None)
        if data is None or store.write_if(key, data, current.version if current else None):
            return
        num_attempts += 1
        if (seconds := time.monotonic() - started) > LIMIT_SECONDS:
            raise ServiceError(f"{store.url}/{key} was changed by other processes in each of {num_attempts} attempts "
                               f"to update it within {seconds:.0f} s. Try again.")
        # A random delay keeps writers that collided from colliding again.
        time.sleep(random.uniform(0, min(MAX_BACKOFF_SECONDS, INITIAL_BACKOFF_SECONDS * 2 ** min(num_attempts, 10))))
