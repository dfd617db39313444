"""A store in a folder: on a local disk, or on one that the workers share."""

import errno
import fcntl
import hashlib
import io
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from carclf.errors import ConfigError, ServiceError
from carclf.services.storage.disk_full import raise_if_disk_full
from carclf.services.storage.protocol import VersionedObject, validate_key, validate_prefix

# No key can hold a "~", so such files never pass for objects.
_LOCK = "~lock"
_LEFT_AFTER = 86_400  # seconds without a change: nobody writes to such a file any more
_PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EMFILE, errno.ENFILE}


class FolderStore:
    """Objects are files under the folder; the version is the content's SHA-256."""

    def __init__(self, path: Path) -> None:
        self.folder = Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 (resolve() would follow links)
        self.url = str(self.folder)

    def read(self, key: str) -> VersionedObject | None:
        """The object, or None where there is none."""
        path = self._path(key)
        with self._errors():
            try:
                data = path.read_bytes()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                return None
        return VersionedObject(data, _version(data))

    def write(self, key: str, data: bytes) -> None:
        """Put the object, replacing what is there."""
        self._put(key, io.BytesIO(data))

    def write_if(self, key: str, data: bytes, version: str | None) -> bool:
        """Put the object if its version is still this one (None: if there is none); False if it is not."""

        def unchanged() -> bool:
            found = self.read(key)
            return (found.version if found else None) == version

        return self._put(key, io.BytesIO(data), unchanged)

    def download(self, key: str, path: Path) -> None:
        """Copy the object to a local file, atomically; KeyError where there is none."""
        source_path = self._path(key)
        with self._errors():
            if not source_path.is_file():
                raise KeyError(key)
            with source_path.open("rb") as source, raise_if_disk_full(path), _replacing(path) as temporary:
                _copy(source, temporary)

    def upload(self, path: Path, key: str) -> None:
        """Copy a local file to the object."""
        target = self._path(key)
        with self._errors():
            _sweep(target.parent)
        with path.open("rb") as source:
            self._put(key, source)

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """Every key that starts with the prefix, in sorted order."""
        top = self.folder / validate_prefix(prefix).rpartition("/")[0]
        with self._errors():
            if self.folder.exists() and not self.folder.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "it is a file", self.url)
            names = (path.relative_to(self.folder).as_posix() for path in top.rglob("*") if path.is_file())
            found = sorted(name for name in names if name.startswith(prefix) and _is_key(name))
        yield from found

    def _path(self, key: str) -> Path:
        return self.folder / validate_key(key)

    def _put(self, key: str, source: BinaryIO, condition: Callable[[], bool] = lambda: True) -> bool:
        path = self._path(key)
        with self._errors(), raise_if_disk_full(path):
            temporary = _beside(path)
            try:
                _copy(source, temporary)
                # Plain writes take the lock too: else one could land between a comparison and its swap.
                with self._lock():
                    if not condition():
                        return False
                    temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(path.parent)
        return True

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.folder / _LOCK).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            text = f"The store {self.url} cannot be read or written: {error}."
            if error.errno in _PASSING:
                raise ServiceError(f"{text} Try again; if it stays, check the disk or its mount.") from error
            raise ConfigError(
                f"{text} Give a folder that this user may write to (--store or CARCLF_STORE)."
            ) from error


def _is_key(name: str) -> bool:
    try:
        return bool(validate_key(name))
    except ValueError:
        return False


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _beside(path: Path) -> Path:
    # The name says nothing of the file's own: with it, a long name would no longer fit.
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent / f"~{uuid.uuid4().hex}"


def _sweep(folder: Path) -> None:
    """Remove what processes that were killed while they wrote have left."""
    for left in folder.glob("~*"):
        with suppress(FileNotFoundError):  # somebody else may sweep too
            if left.name != _LOCK and time.time() - left.stat().st_mtime > _LEFT_AFTER:
                left.unlink()


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    temporary = _beside(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _copy(source: BinaryIO, path: Path) -> None:
    with path.open("xb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
        target.flush()
        os.fsync(target.fileno())


def _sync_folder(folder: Path) -> None:
    # Without it a power cut may undo the rename, though not tear the file.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
