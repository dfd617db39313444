"""The store: a folder or ``s3://bucket/prefix`` behind one Protocol of six operations."""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from carclf.errors import ConfigError, ServiceError

KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*", re.ASCII)
LOCK = ".carclf-"  # how the folder store's own files begin; no key's part begins with a dot


@dataclass(frozen=True)
class Versioned:
    """An object's bytes and the version (ETag) that a compare-and-swap names."""

    data: bytes
    version: str


class Store(Protocol):
    """Six operations on objects named by keys such as ``models/ab12/model.keras``.

    Keys are relative, ``/``-separated, of letters, digits and ``._-`` in each part, never ``..``:
    anything else raises ValueError. Writes are atomic: a reader sees the old object or the new one.
    Errors: ConfigError (no such bucket, no permission, no credentials), ServiceError (transient).
    """

    url: str

    def read(self, key: str) -> Versioned | None:
        """The object, or None where there is none."""

    def write(self, key: str, data: bytes) -> None:
        """Put the object, replacing what is there."""

    def write_if(self, key: str, data: bytes, version: str | None) -> bool:
        """Put the object if its version is still this one (None: if there is none); False if it is not."""

    def download(self, key: str, path: Path) -> None:
        """Copy the object to a local file, atomically; KeyError where there is none."""

    def upload(self, path: Path, key: str) -> None:
        """Copy a local file to the object."""

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Every key that starts with the prefix, in sorted order."""


def open_store(url: str) -> Store:
    """The store at a path or at ``s3://bucket/prefix``."""
    if url.startswith("s3://"):
        return S3Store(url)
    if "://" in url:
        raise ConfigError(f"The store {url!r} is neither a folder nor s3://bucket/prefix.")
    return FolderStore(Path(url).expanduser())


def _checked(key: str) -> str:
    if not KEY.fullmatch(key) or ".." in key.split("/"):
        raise ValueError(f"{key!r} is no key: parts of letters, digits and ._- with / between them")
    return key


class FolderStore:
    """Objects as files of a folder; a lock file guards compare-and-swap."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.url = str(self.folder)

    def _path(self, key: str) -> Path:
        return self.folder / _checked(key)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.EIO, errno.ESTALE, errno.EINTR):
                raise ServiceError(f"The store {self.url} failed for the moment: {error}") from error
            raise ConfigError(
                f"The store {self.url} cannot be read or written: {error}. Give a folder that this user may write to, "
                "with space left (--store or CARCLF_STORE)."
            ) from error

    def read(self, key: str) -> Versioned | None:
        path = self._path(key)
        with self._faults():
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                return None
            return Versioned(data, hashlib.sha256(data).hexdigest())

    def write(self, key: str, data: bytes) -> None:
        with self._replacing(self._path(key)) as partial:
            partial.write_bytes(data)

    def write_if(self, key: str, data: bytes, version: str | None) -> bool:
        path = self._path(key)
        with self._faults():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.with_name(f"{LOCK}{path.name}").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                found = self.read(key)
                if (found.version if found else None) != version:
                    return False
                self.write(key, data)
                return True

    def download(self, key: str, path: Path) -> None:
        source = self._path(key)
        with self._faults():
            if not source.is_file():
                raise KeyError(key)
            with _partial(path) as partial:
                shutil.copyfile(source, partial)

    def upload(self, path: Path, key: str) -> None:
        with self._replacing(self._path(key)) as partial:
            shutil.copyfile(path, partial)

    def keys(self, prefix: str = "") -> Iterator[str]:
        with self._faults():
            found = [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]
        yield from sorted(key for key in found if key.startswith(prefix) and not key.rpartition("/")[2].startswith(LOCK))

    @contextmanager
    def _replacing(self, path: Path) -> Iterator[Path]:
        with self._faults():
            path.parent.mkdir(parents=True, exist_ok=True)
            with _partial(path) as partial:
                yield partial


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """A file beside ``path`` that takes its place when the block ends well: readers see the old or the new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=LOCK)
    os.close(handle)
    try:
        yield Path(name)
        with Path(name).open("rb") as file:
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


class S3Store:
    """Objects under a prefix of a bucket; credentials and endpoint come from the standard AWS settings."""

    def __init__(self, url: str) -> None:
        import boto3
        from botocore.config import Config

        self.url = url.rstrip("/")
        self.bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        self.prefix = f"{prefix}/" if prefix else ""
        settings = Config(retries={"mode": "standard", "max_attempts": 4}, connect_timeout=10, read_timeout=60)
        with self._faults():
            self.client: Any = boto3.client("s3", config=settings)

    @contextmanager
    def _faults(self, key: str = "") -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError, ProfileNotFound

        try:
            yield
        except ClientError as error:
            status = error.response["ResponseMetadata"].get("HTTPStatusCode", 500)
            if status >= 500 or status in (408, 429):
                raise ServiceError(f"{self.url} failed for the moment: {error}") from error
            raise ConfigError(f"{self.url}/{key} is refused: {error}. Check the bucket's name and its permissions.") \
                from error
        except (NoCredentialsError, NoRegionError, ProfileNotFound) as error:
            raise ConfigError(f"{self.url}: {error}. Set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, where it is "
                              "needed, AWS_REGION and AWS_ENDPOINT_URL.") from error
        except (BotoCoreError, Boto3Error) as error:
            raise ServiceError(f"{self.url} cannot be reached: {error}") from error

    def _where(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.prefix + _checked(key)}

    def read(self, key: str) -> Versioned | None:
        where = self._where(key)
        with self._faults(key):
            try:
                found = self.client.get_object(**where)
            except self.client.exceptions.NoSuchKey:
                return None
            return Versioned(found["Body"].read(), found["ETag"])

    def write(self, key: str, data: bytes) -> None:
        where = self._where(key)
        with self._faults(key):
            self.client.put_object(**where, Body=data)

    def write_if(self, key: str, data: bytes, version: str | None) -> bool:
        where = self._where(key)
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        with self._faults(key):
            try:
                self.client.put_object(**where, Body=data, **condition)
            except self.client.exceptions.ClientError as error:
                # 412: another version is there; 409: another writer is at it; 404: IfMatch on nothing
                if error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"):
                    return False
                raise
            return True

    def download(self, key: str, path: Path) -> None:
        where = self._where(key)
        with self._faults(key), _partial(path) as partial:
            try:
                self.client.download_file(where["Bucket"], where["Key"], str(partial))
            except self.client.exceptions.ClientError as error:
                if error.response["Error"]["Code"] in ("404", "NoSuchKey"):
                    raise KeyError(key) from error
                raise

    def upload(self, path: Path, key: str) -> None:
        where = self._where(key)
        with self._faults(key):
            self.client.upload_file(str(path), where["Bucket"], where["Key"])

    def keys(self, prefix: str = "") -> Iterator[str]:
        with self._faults(prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix
            )
            for page in pages:
                yield from (item["Key"].removeprefix(self.prefix) for item in page.get("Contents", []))


_PART = re.compile(r"[A-Za-z0-9._-]{1,255}\Z", re.ASCII)


def check_key(key: str) -> str:
    """The key itself; ValueError where it could leave the store or would not fit every kind of store."""
    parts = key.split("/")
    if len(key) > 900 or not all(_PART.match(part) and part not in {".", ".."} for part in parts):
        raise ValueError(f"{key!r} is no key: parts of letters, digits and ._- joined by /, never '.' or '..'")
    return key


def check_prefix(prefix: str) -> str:
    """The prefix itself; ValueError where no key could start with it."""
    if prefix:
        check_key(prefix.removesuffix("/"))
    return prefix
