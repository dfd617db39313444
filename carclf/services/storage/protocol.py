"""The protocol of a store: seven operations on named objects."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

MAX_KEY_LENGTH = 900  # S3 allows 1,024 bytes, the store's prefix included


@dataclass(frozen=True)
class VersionedObject:
    """The bytes of an object, and the version (ETag) to pass to ``write_if``."""

    data: bytes
    version: str


class Store(Protocol):
    """Seven operations on objects named by keys such as ``models/ab12/model.keras``.

    Keys are relative and ``/``-separated; each part consists of letters, digits and ``._-`` and does not start with a
    dot. Other keys raise ValueError. Writes are atomic: a reader sees the old object or the new one.

    Raises:
        ConfigError: The bucket is missing, permission or credentials are missing, or the disk is full.
        ServiceError: A transient failure.
        DataError: The downloaded bytes differ from the uploaded ones, where the store can detect it.
    """

    url: str

    def read(self, key: str) -> VersionedObject | None:
        """Return the object, or None if it does not exist."""

    def write(self, key: str, data: bytes) -> None:
        """Create or replace the object."""

    def write_if(self, key: str, data: bytes, version: str | None) -> bool:
        """Write the object if its version is still ``version`` (None: if it does not exist); return False if not."""

    def download(self, key: str, path: Path) -> None:
        """Copy the object to a local file, atomically; raise KeyError if the object does not exist."""

    def upload(self, path: Path, key: str) -> None:
        """Copy a local file to the object."""

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """Yield every key that starts with the prefix, in sorted order."""

    def remove_leftovers(self) -> int:
        """Remove what killed writers left behind, which is not part of any object; return the number of leftovers."""


# Parts that start with a dot are reserved: "..", and hidden files that tools leave on a shared disk.
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}\Z", re.ASCII)


def validate_key(key: str) -> str:
    """Return the key; raise ValueError if it could leave the store or is not valid in every kind of store."""
    if len(key) > MAX_KEY_LENGTH or not all(_PART.match(part) for part in key.split("/")):
        raise ValueError(f"Invalid key {key!r}. Use parts of letters, digits and ._- that are joined by / and do not "
                         "start with a dot.")
    return key


def validate_prefix(prefix: str) -> str:
    """Return the prefix; raise ValueError if no valid key could start with it."""
    if prefix:
        validate_key(prefix.removesuffix("/"))
    return prefix
