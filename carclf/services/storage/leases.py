"""Leases: of several processes that could do the same work at the same time, one does it."""

import json
import secrets
import time

from carclf.services.storage.protocol import Store

OWNER_ID = secrets.token_hex(8)  # identifies this process


def acquire_lease(store: Store, key: str, seconds: float) -> bool:
    """Acquire or extend a lease for so many seconds; return False while another process holds it.

    The clocks of all processes must agree to within a fraction of ``seconds``.
    """
    current = store.read(key)
    if current:
        held = json.loads(current.data)
        if held["owner"] != OWNER_ID and float(held["expires_at"]) > time.time():
            return False
    lease = {"owner": OWNER_ID, "expires_at": time.time() + seconds}
    return store.write_if(key, json.dumps(lease).encode(), current.version if current else None)


def release_lease(store: Store, key: str) -> None:
    """Release the lease if this process still holds it."""
    current = store.read(key)
    if current and json.loads(current.data)["owner"] == OWNER_ID:
        store.write_if(key, json.dumps({"owner": "", "expires_at": 0}).encode(), current.version)
