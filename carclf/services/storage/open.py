"""Open a store by its URL."""

import os
import re
import shlex
from pathlib import Path

from carclf.errors import ConfigError
from carclf.services.storage.folder import STORE_SETTING, FolderStore
from carclf.services.storage.protocol import Store
from carclf.services.storage.s3 import S3Store

_SCHEME = re.compile("[a-z0-9]+:", re.IGNORECASE)  # of a URL that may be mistyped, such as s3:/bucket


def open_store(url: str | os.PathLike[str], setting: str = STORE_SETTING) -> Store:
    """Return the store in a local folder or at ``s3://bucket/prefix``; ``setting`` contains the URL, for errors."""
    text = os.fspath(url)
    if text.startswith("s3://"):
        return S3Store(text)
    if "://" in text or _SCHEME.match(text) or not text:
        raise ConfigError(f"Invalid store URL {text!r}. Use the path of a folder, or s3://bucket/prefix.")
    return FolderStore(Path(text), setting)


def format_command(store: Store, arguments: str) -> str:
    """Return the ``carclf`` command line for this store, quoted for a shell."""
    return f"carclf {arguments} --store {shlex.quote(store.url)}"
