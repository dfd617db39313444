"""Changing one object that several may change at once."""

import random
import time
from collections.abc import Callable

from carclf.errors import ServiceError
from carclf.services.storage.protocol import Store

MAX_UPDATE_ATTEMPTS = 20
INITIAL_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.005, 0.5  # seconds before the next try, at most


def update_object(store: Store, key: str, change: Callable[[bytes | None], bytes | None]) -> None:
    """Replace the object by what ``change`` makes of its bytes (None: leave it), so that no one's writing is lost.

    ``change`` gets None where there is no object, and is called again where another was first. ServiceError where
    others were first each time.
    """
    for number in range(MAX_UPDATE_ATTEMPTS):
        found = store.read(key)
        data = change(None if found is None else found.data)
        if data is None or store.write_if(key, data, None if found is None else found.version):
            return
        # As long as chance says: those who met once do not meet again.
        time.sleep(random.uniform(0, min(MAX_BACKOFF_SECONDS, INITIAL_BACKOFF_SECONDS * 2**number)))
    raise ServiceError(f"{store.url}/{key} changed {MAX_UPDATE_ATTEMPTS} times while it was to be written. Try again.")
