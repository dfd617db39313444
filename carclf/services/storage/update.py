"""Concurrent updates of a single object."""

import random
import time
from collections.abc import Callable

from carclf.errors import ServiceError
from carclf.services.storage.protocol import Store

MAX_UPDATE_ATTEMPTS = 20
INITIAL_BACKOFF_SECONDS = 0.005
MAX_BACKOFF_SECONDS = 0.5


def update_object(store: Store, key: str, change: Callable[[bytes | None], bytes | None]) -> None:
    """Replace the object by ``change(data)`` with compare-and-swap, so that no concurrent update is lost.

    ``change`` gets None if the object does not exist, and returns None to leave it as it is. It is called again after
    another writer was faster; ServiceError is raised after ``MAX_UPDATE_ATTEMPTS`` attempts.
    """
    for attempt in range(MAX_UPDATE_ATTEMPTS):
        current = store.read(key)
        data = change(current.data if current else None)
        if data is None or store.write_if(key, data, current.version if current else None):
            return
        # A random delay keeps writers that collided from colliding again.
        time.sleep(random.uniform(0, min(MAX_BACKOFF_SECONDS, INITIAL_BACKOFF_SECONDS * 2**attempt)))
    raise ServiceError(f"{store.url}/{key} was changed by other writers in each of {MAX_UPDATE_ATTEMPTS} attempts to "
                       "update it. Try again.")
