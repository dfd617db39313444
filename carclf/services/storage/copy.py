"""A store copied into another while runs go on: for a backup, for its return, for a move to another place."""

import hashlib
import json
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from carclf.errors import DataError, ServiceError
from carclf.services.storage.protocol import Store

# A name of its content never holds another content.
_IMMUTABLE = re.compile(r"/[0-9a-f]{8}/[^/]+\Z")
_CHECKPOINTS, _LATEST, _NUM_LOOKS = "checkpoints/", "/latest.json", 5


@dataclass
class CopyResult:
    """What was copied; ``known`` were there already, ``damaged`` are gone or not what their manifest says."""

    num_files: int = 0
    num_bytes: int = 0
    known: int = 0
    damaged: list[str] = field(default_factory=list)


def copy_store(source: Store, target: Store, *, anew: bool = False) -> CopyResult:
    """Copy every object, so that at each moment what the copy names is in the copy.

    What names others is read first and written last: champion.json after the runs' records, these after the
    manifests, these after their files. Files are compared with the SHA-256 in their manifests; those that are damaged
    are named, and not copied. ``anew`` copies also what the target has under a name of its content: it may be damaged.
    A training under way writes over its checkpoints: each is read with its file, and only the latest is copied.
    """
    naming = _read_naming(source)
    known, sums, copied = set() if anew else set(target.list_keys()), _sums(naming), CopyResult()
    with tempfile.TemporaryDirectory(prefix="carclf-") as folder:
        path = Path(folder) / "file"
        files = [key for key in source.list_keys() if not _rank(key)]  # noqa: SIM118 (a store is no dictionary)
        copied.damaged += sorted(set(sums) - set(files))
        for key in files:
            if key in known and _IMMUTABLE.search(key):
                copied.known += 1
            elif not key.startswith(_CHECKPOINTS):
                _copy_file(source, target, key, path, sums.get(key), copied)
            elif key.endswith(_LATEST):
                _copy_checkpoint(source, target, key, path, copied)
    for key, data in reversed(naming.items()):
        _write(target, key, data, copied)
    return copied


def _copy_checkpoint(source: Store, target: Store, key: str, path: Path, copied: CopyResult) -> None:
    """What ``latest.json`` names, then that itself; again where the training went on between the two."""
    for _ in range(_NUM_LOOKS):
        data = seen.data if (seen := source.read(key)) else b"null"
        try:
            latest = json.loads(data)
        except ValueError:
            break
        file = f"{key.removesuffix(_LATEST)}/{latest['file']}" if latest else ""
        if latest and not _fetched(source, file, path, latest["sha256"]):
            continue
        if latest:
            _upload(target, file, path, copied)
        _write(target, key, data, copied)
        return
    copied.damaged.append(key)


def _copy_file(source: Store, target: Store, key: str, path: Path, sha256: str | None, copied: CopyResult) -> None:
    if _fetched(source, key, path, sha256):
        _upload(target, key, path, copied)
    else:
        copied.damaged.append(key)


def _upload(target: Store, key: str, path: Path, copied: CopyResult) -> None:
    target.upload(path, key)
    copied.num_files, copied.num_bytes = copied.num_files + 1, copied.num_bytes + path.stat().st_size


def _write(target: Store, key: str, data: bytes, copied: CopyResult) -> None:
    target.write(key, data)
    copied.num_files, copied.num_bytes = copied.num_files + 1, copied.num_bytes + len(data)


def _rank(key: str) -> int:
    """0 for a file; the more for what names others, the later it is written."""
    if key.endswith("/manifest.json"):
        return 1
    if key.startswith("runs/"):
        return 2
    return 0 if "/" in key else 3


def _read_naming(source: Store) -> dict[str, bytes]:
    found = {}
    for rank in (3, 2, 1):
        for key in sorted(key for key in source.list_keys() if _rank(key) == rank):  # noqa: SIM118
            if (seen := source.read(key)) is None:
                raise ServiceError(f"{source.url}/{key} was removed while the store was copied. Try again.")
            found[key] = seen.data
    return found


def _sums(naming: dict[str, bytes]) -> dict[str, str]:
    sums: dict[str, str] = {}
    for key, data in naming.items():
        if key.endswith("/manifest.json"):
            try:
                files = json.loads(data)["files"].values()
                sums |= {file["key"]: file["sha256"] for file in files}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(f"{key} is damaged: it is no manifest. Restore it from an earlier backup, or remove "
                                "it.") from error
    return sums


def _fetched(source: Store, key: str, path: Path, sha256: str | None) -> bool:
    """Whether the file came as its manifest says; what no manifest names is believed."""
    try:
        source.download(key, path)
    except DataError:
        return False
    except KeyError as error:
        raise ServiceError(f"{source.url}/{key} was removed while the store was copied. Try again.") from error
    if sha256 is None:
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256
