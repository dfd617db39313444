"""Where artifacts live: ``open_store`` gives a folder or an S3 bucket behind the Protocol ``Store``."""

import os
import shlex
from pathlib import Path

from carclf.errors import ConfigError
from carclf.services.storage.copy import CopyResult, copy_store
from carclf.services.storage.disk_full import disk_full_message
from carclf.services.storage.folder import FolderStore
from carclf.services.storage.leases import acquire_lease, release_lease
from carclf.services.storage.protocol import Store, VersionedObject
from carclf.services.storage.s3 import S3Store
from carclf.services.storage.update import MAX_UPDATE_ATTEMPTS, update_object

__all__ = [
    "MAX_UPDATE_ATTEMPTS",
    "CopyResult",
    "FolderStore",
    "S3Store",
    "Store",
    "VersionedObject",
    "acquire_lease",
    "command_on",
    "copy_store",
    "disk_full_message",
    "open_store",
    "release_lease",
    "update_object",
]


def open_store(url: str | os.PathLike[str]) -> Store:
    """The store at a local path or at ``s3://bucket/prefix``."""
    text = os.fspath(url)
    if text.startswith("s3://"):
        return S3Store(text)
    if "://" in text or not text:
        raise ConfigError(f"The store {text!r} is neither a folder nor s3://bucket/prefix.")
    return FolderStore(Path(text))


def format_command(store: Store, words: str) -> str:
    """The command of carclf with that store, as it can be pasted into a terminal."""
    return f"carclf {words} --store {shlex.quote(store.url)}"
