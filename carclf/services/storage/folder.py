"""A store in a folder on a local or shared disk."""

import errno
import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from carclf.errors import ConfigError, NotFoundError, ServiceError
from carclf.os_errors import expand_home, raise_if_disk_full
from carclf.services.storage.atomic_file import TEMPORARY_NAME, atomic_path, sync, temporary_path
from carclf.services.storage.folder_lock import folder_lock
from carclf.services.storage.protocol import VersionedObject, validate_key, validate_prefix
from carclf.temporary import hold, remove_abandoned

# No key contains a "~": these files are never mistaken for objects.
_LOCK = "~lock"
_COPY_BYTES = 1 << 20
STORE_SETTING = "--store or CARCLF_STORE"
_TRANSIENT = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN}


class FolderStore:
    """Objects are files in the folder; the version is the SHA-256 of the content. Errors name the setting."""

    def __init__(self, path: Path, setting: str = STORE_SETTING) -> None:
        self.folder = Path(os.path.abspath(expand_home(path, setting)))  # noqa: PTH100 (resolve() would follow links)
        self.url = str(self.folder)
        self._setting = setting
        if self.folder.is_file():
            raise NotFoundError(f"{self.url} is a file. Use a folder or s3://bucket/prefix ({setting}).")

    def read(self, key: str) -> VersionedObject | None:
        """Return the object, or None if it does not exist."""
        path = self._path(key)
        with self._translate_errors():
            try:
                data = path.read_bytes()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                return None
        return VersionedObject(data, hashlib.sha256(data).hexdigest())

    def write(self, key: str, data: bytes) -> None:
        """Create or replace the object."""
        self._write(key, io.BytesIO(data))

    def write_if(self, key: str, data: bytes, version: str | None) -> bool:
        """Write the object if its version is still ``version`` (None: if it does not exist); return False if not."""

        def is_unchanged() -> bool:
            current = self.read(key)
            return (current.version if current else None) == version

        return self._write(key, io.BytesIO(data), is_unchanged)

    def download(self, key: str, path: Path) -> None:
        """Copy the object to a local file, atomically; raise KeyError if the object does not exist."""
        source_path = self._path(key)
        with self._translate_errors():
            if not source_path.is_file():
                raise KeyError(key)
            with raise_if_disk_full(path), atomic_path(path) as temporary:
                shutil.copyfile(source_path, temporary)

    def upload(self, path: Path, key: str) -> None:
        """Copy a local file to the object."""
        with path.open("rb") as source:
            self._write(key, source)

    def remove_leftovers(self) -> int:
        """Remove the temporary files of killed writers, everywhere in the store; return their number."""
        with self._translate_errors():
            return remove_abandoned(path for path in self.folder.rglob("~*") if TEMPORARY_NAME.fullmatch(path.name))

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """Yield every key that starts with the prefix, in sorted order."""
        top = self.folder / validate_prefix(prefix).rpartition("/")[0]
        with self._translate_errors():
            names = (path.relative_to(self.folder).as_posix() for path in top.rglob("*") if path.is_file())
            keys = sorted(name for name in names if name.startswith(prefix) and _is_key(name))
        yield from keys

    def _path(self, key: str) -> Path:
        return self.folder / validate_key(key)

    def _write(self, key: str, source: BinaryIO, condition: Callable[[], bool] = lambda: True) -> bool:
        path = self._path(key)
        with self._translate_errors(), raise_if_disk_full(path):
            temporary = temporary_path(path)
            try:
                with temporary.open("xb") as target:
                    hold(target.fileno())
                    shutil.copyfileobj(source, target, _COPY_BYTES)
                    target.flush()
                    os.fsync(target.fileno())
                    # Unconditional writes take the lock too: they must not happen between a comparison and its swap.
                    with folder_lock(self.folder / _LOCK):
                        if not condition():
                            return False
                        temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            sync(path.parent)
        return True

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            message = f"The folder {self.url} cannot be read or written: {error}."
            if error.errno in _TRANSIENT:
                raise ServiceError(f"{message} Try again; if it keeps failing, check the disk, its mount and "
                                   "`ulimit -n`.") from error
            raise ConfigError(f"{message} Use a folder that this user may write to ({self._setting}).") from error


def _is_key(name: str) -> bool:
    try:
        return bool(validate_key(name))
    except ValueError:
        return False
