"""Copy a store while runs write to it: a backup, a restore, or a move."""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator
from typing_extensions import TypedDict  # pydantic needs it on Python 3.11

from carclf.errors import DataError, ServiceError
from carclf.services.storage.marker import MARKER
from carclf.services.storage.parsing import parse_object
from carclf.services.storage.protocol import Store, validate_key
from carclf.temporary import temporary_folder

# Keys with a content hash: the object never changes.
_IMMUTABLE = re.compile(r"/[0-9a-f]{8}/[^/]+\Z")
_CHECKPOINTS = "checkpoints/"
_LATEST = "/latest.json"
_MANIFEST = "/manifest.json"
_CHECKPOINT_ATTEMPTS = 5


Key = Annotated[str, AfterValidator(validate_key)]


class _File(TypedDict):
    key: Key
    sha256: str


class _Manifest(TypedDict):
    """The part of a manifest that a copy needs."""

    files: dict[str, _File]


class _Checkpoint(TypedDict):
    """The part of ``latest.json`` that a copy needs."""

    file: Key
    sha256: str


@dataclass
class CopyResult:
    """Counts of a copy.

    ``damaged`` lists the keys of files that are missing or differ from their manifest, and of invalid manifests.
    """

    num_files: int = 0
    num_bytes: int = 0
    num_skipped: int = 0  # files that exist in the target
    damaged: list[str] = field(default_factory=list)


def copy_store(source: Store, target: Store, *, overwrite: bool = False) -> CopyResult:
    """Copy every object. The copy never refers to an object that it does not contain.

    Objects that refer to others are read first and written last; the order of writing is files, manifests, run records,
    champion.json, the store's marker: an interrupted copy is not a store. Files are compared with the SHA-256 in their
    manifest; damaged files and manifests are reported, not copied. A training in progress overwrites its checkpoints,
    so only the latest is copied. Files that exist in the target under a content hash are copied only with
    ``overwrite``, in case they are damaged there.
    """
    references = _read_references(source)
    checksums, damaged = _parse_checksums(references)
    with temporary_folder() as folder:
        copy = _Copy(source, target, folder / "file")
        copy.result.damaged += damaged
        copy.copy_files(checksums, set() if overwrite else set(target.list_keys()))
        for key, data in reversed(references.items()):
            if key not in damaged:
                copy.write(key, data)
    return copy.result


class _Copy:
    """A copy in progress."""

    def __init__(self, source: Store, target: Store, path: Path) -> None:
        self.source = source
        self.target = target
        self.path = path  # the local file between download and upload
        self.result = CopyResult()

    def copy_files(self, checksums: dict[str, str], existing: set[str]) -> None:
        """Copy the files that other objects refer to, except immutable files that exist in the target."""
        keys = [key for key in self.source.list_keys() if _level(key) == 0]
        self.result.damaged += sorted(set(checksums) - set(keys))
        for key in keys:
            if key in existing and _IMMUTABLE.search(key):
                self.result.num_skipped += 1
            elif not key.startswith(_CHECKPOINTS):
                self._copy_file(key, checksums.get(key))
            elif key.endswith(_LATEST):
                self._copy_checkpoint(key)

    def write(self, key: str, data: bytes) -> None:
        """Write an object to the target."""
        self.target.write(key, data)
        self._count(len(data))

    def _copy_file(self, key: str, sha256: str | None) -> None:
        if self._download(key, sha256):
            self._upload(key)
        else:
            self.result.damaged.append(key)

    def _copy_checkpoint(self, key: str) -> None:
        """Copy the checkpoint that ``latest.json`` names, then ``latest.json``; repeat if the training replaced it."""
        for _ in range(_CHECKPOINT_ATTEMPTS):
            current = self.source.read(key)
            data = current.data if current else b"null"
            try:
                latest = None if data == b"null" else parse_object(_Checkpoint, data, key, "Resume the training.")
            except DataError:
                break
            if latest:
                file = f"{key.removesuffix(_LATEST)}/{latest['file']}"
                if not self._download(file, latest["sha256"]):
                    continue
                self._upload(file)
            self.write(key, data)
            return
        self.result.damaged.append(key)

    def _download(self, key: str, sha256: str | None) -> bool:
        """Download a file; return False if it is damaged. A file without a manifest is trusted."""
        try:
            self.source.download(key, self.path)
        except DataError:
            return False
        except KeyError as error:
            raise _removed_error(self.source, key) from error
        if sha256 is None:
            return True
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256

    def _upload(self, key: str) -> None:
        self.target.upload(self.path, key)
        self._count(self.path.stat().st_size)

    def _count(self, num_bytes: int) -> None:
        self.result.num_files += 1
        self.result.num_bytes += num_bytes


def _level(key: str) -> int:
    """Return 0 for a file, 1 to 3 for objects that refer to objects of lower levels, 4 for the marker."""
    if key == MARKER:
        return 4
    if key.endswith(_MANIFEST):
        return 1
    if key.startswith("runs/"):
        return 2
    return 0 if "/" in key else 3


def _read_references(source: Store) -> dict[str, bytes]:
    """Read the objects that refer to others, highest level first."""
    references = {}
    for level in (4, 3, 2, 1):
        for key in sorted(key for key in source.list_keys() if _level(key) == level):
            if (current := source.read(key)) is None:
                raise _removed_error(source, key)
            references[key] = current.data
    return references


def _parse_checksums(references: dict[str, bytes]) -> tuple[dict[str, str], list[str]]:
    """Return the SHA-256 of each file that a manifest lists, and the keys of the invalid manifests."""
    checksums: dict[str, str] = {}
    damaged = []
    for key in filter(lambda key: key.endswith(_MANIFEST), references):
        try:
            manifest = parse_object(_Manifest, references[key], key, "Restore it from an earlier backup.")
        except DataError:
            damaged.append(key)
        else:
            checksums |= {file["key"]: file["sha256"] for file in manifest["files"].values()}
    return checksums, damaged


def _removed_error(source: Store, key: str) -> ServiceError:
    return ServiceError(f"{source.url}/{key} was removed while the store was copied. Try again.")
