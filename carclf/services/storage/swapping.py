"""Changing one object that several may change at once."""

from collections.abc import Callable

from carclf.errors import ServiceError
from carclf.services.storage.protocol import Store

NUM_TRIES = 20


def change_object(store: Store, key: str, change: Callable[[bytes | None], bytes | None]) -> None:
    """Replace the object by what ``change`` makes of its bytes (None: leave it), so that no one's writing is lost.

    ``change`` gets None where there is no object, and is called again where another was first. ServiceError where
    others were first each time.
    """
    for _ in range(NUM_TRIES):
        found = store.read(key)
        data = change(None if found is None else found.data)
        if data is None or store.write_if(key, data, None if found is None else found.version):
            return
    raise ServiceError(f"{store.url}/{key} changed {NUM_TRIES} times while it was to be written. Try again.")
