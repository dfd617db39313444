"""A claim: one of several that could do the same thing at the same moment does it."""

import json
import secrets
import time

from carclf.services.storage.protocol import Store

OWNER_ID = secrets.token_hex(8)  # whose claim it is: this process's


def acquire_lease(store: Store, key: str, seconds: float) -> bool:
    """Whether this process may go on: True where nobody else's claim holds; it holds for so long, or until given up.

    Clocks that go apart by more than a part of ``seconds`` make it worthless.
    """
    found = store.read(key)
    if found is not None and _holds(found.data):
        return False
    data = json.dumps({"by": OWNER_ID, "until": time.time() + seconds}).encode()
    return store.write_if(key, data, None if found is None else found.version)


def release_lease(store: Store, key: str) -> None:
    """End this process's claim, if it still is its own."""
    found = store.read(key)
    if found is not None and json.loads(found.data)["by"] == OWNER_ID:
        store.write_if(key, json.dumps({"by": "", "until": 0}).encode(), found.version)


def _holds(data: bytes) -> bool:
    other = json.loads(data)
    return other["by"] != OWNER_ID and float(other["until"]) > time.time()
