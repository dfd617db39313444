"""The store: a folder or ``s3://bucket/prefix`` behind one Protocol of six operations."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class VersionedObject:
    """An object's bytes and the version (ETag) that a compare-and-swap names."""

    data: bytes
    version: str


class Store(Protocol):
    """Six operations on objects named by keys such as ``models/ab12/model.keras``.

    Keys are relative, ``/``-separated, of letters, digits and ``._-`` in each part, never ``..``:
    anything else raises ValueError. Writes are atomic: a reader sees the old object or the new one.
    Errors: ConfigError (no such bucket, no permission, no credentials, a full disk), ServiceError (transient),
    DataError (what is fetched is not what was put there, where the store can tell).
    """

    url: str

    def read(self, key: str) -> VersionedObject | None:
        """The object, or None where there is none."""

    def write(self, key: str, data: bytes) -> None:
        """Put the object, replacing what is there."""

    def write_if(self, key: str, data: bytes, version: str | None) -> bool:
        """Put the object if its version is still this one (None: if there is none); False if it is not."""

    def download(self, key: str, path: Path) -> None:
        """Copy the object to a local file, atomically; KeyError where there is none."""

    def upload(self, path: Path, key: str) -> None:
        """Copy a local file to the object."""

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """Every key that starts with the prefix, in sorted order."""


# No part begins with a dot: no "..", and no hidden files that a tool on a shared disk may have left.
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}\Z", re.ASCII)


def validate_key(key: str) -> str:
    """The key itself; ValueError where it could leave the store or would not fit every kind of store."""
    parts = key.split("/")
    if len(key) > 900 or not all(_PART.match(part) for part in parts):
        raise ValueError(f"{key!r} is no key: parts of letters, digits and ._- joined by /, none beginning with a dot")
    return key


def validate_prefix(prefix: str) -> str:
    """The prefix itself; ValueError where no key could start with it."""
    if prefix:
        validate_key(prefix.removesuffix("/"))
    return prefix
