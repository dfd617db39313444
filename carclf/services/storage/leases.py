"""Leases: only one of several processes does the same work at a time."""

import json
import secrets
import time

from typing_extensions import TypedDict  # pydantic needs it on Python 3.11

from carclf.services.storage.parsing import parse_object
from carclf.services.storage.protocol import Store, VersionedObject

OWNER_ID = secrets.token_hex(8)  # identifies this process


class Lease(TypedDict):
    """The process that holds a lease, "" if none does, and its end in seconds since 1970."""

    owner: str
    expires_at: float


def acquire_lease(store: Store, key: str, seconds: float) -> bool:
    """Acquire or extend a lease for ``seconds``; return False while another process holds it.

    The clocks of all processes must agree to within a fraction of ``seconds``.
    """
    current = store.read(key)
    if current:
        held = _parse(current, store, key)
        if held["owner"] != OWNER_ID and held["expires_at"] > time.time():
            return False
    lease: Lease = {"owner": OWNER_ID, "expires_at": time.time() + seconds}
    return store.write_if(key, json.dumps(lease).encode(), current.version if current else None)


def release_lease(store: Store, key: str) -> None:
    """Release the lease if this process still holds it."""
    current = store.read(key)
    if current and _parse(current, store, key)["owner"] == OWNER_ID:
        store.write_if(key, json.dumps({"owner": "", "expires_at": 0}).encode(), current.version)


def _parse(current: VersionedObject, store: Store, key: str) -> Lease:
    return parse_object(Lease, current.data, f"{key} in {store.url}", "Make sure that no other process is submitting, "
                        "then remove the file.")
