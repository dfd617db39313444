"""``store.json``, which is written once: without it, a missing disk could not be distinguished from a new store."""

import os
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from carclf.errors import NotFoundError
from carclf.services.storage.open import format_command, open_store
from carclf.services.storage.parsing import parse_object
from carclf.services.storage.protocol import Store

MARKER = "store.json"


class Marker(BaseModel):
    """The content of the marker: the version of the store's layout, and the time of its creation."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    created: str


def init_store(url: str | os.PathLike[str]) -> Store:
    """Return the store; write its marker if it is missing."""
    store = open_store(url)
    marker = Marker(created=datetime.now(UTC).isoformat(timespec="seconds"))
    store.write_if(MARKER, marker.model_dump_json().encode(), None)
    require_marker(store)
    return store


def require_store(url: str | os.PathLike[str]) -> Store:
    """Return a store that exists; raise ConfigError if its marker is missing."""
    store = open_store(url)
    require_marker(store)
    return store


def require_marker(store: Store) -> None:
    """Raise ConfigError if the marker is missing, DataError if it is damaged."""
    if (stored := store.read(MARKER)) is None:
        raise NotFoundError(f"There is no store at {store.url}: {MARKER} is missing. Mount its disk, or fix --store "
                            f"(CARCLF_STORE). To create a new store: {format_command(store, 'store init')}")
    parse_object(Marker, stored.data, f"{MARKER} in {store.url}", "Restore it from a backup, or remove it and run: "
                 f"{format_command(store, 'store init')}")
