"""The files that the demo server offers: the whole archive and each of its members."""

import functools
import hashlib
import io
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from carclf.demo.faults import Fault


@dataclass(frozen=True)
class ServedFile:
    """An open file, its size in bytes, and the ETag of its content."""

    content: IO[bytes]
    num_bytes: int
    etag: str


def digest(archive: Path) -> str:
    """Return the archive's SHA-256, which is cached until the file changes."""
    stat = archive.stat()
    return _digest(archive, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=8)
def _digest(archive: Path, _mtime_ns: int, _num_bytes: int) -> str:
    with archive.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def member_sizes(archive: Path) -> dict[str, int]:
    """Return the members' sizes in bytes by name."""
    with zipfile.ZipFile(archive) as opened:
        return {member.filename: member.file_size for member in opened.infolist()}


def open_file(archive: Path, member: str, fault: Fault | None, stack: ExitStack) -> ServedFile:
    """Open a member or the whole archive (""), damaged if ``fault`` requires it; KeyError for an unknown member."""
    etag = digest(archive)[:32]
    if not member:
        file: IO[bytes] = stack.enter_context(archive.open("rb"))
        num_bytes = archive.stat().st_size
    else:
        opened = stack.enter_context(zipfile.ZipFile(archive))
        num_bytes = opened.getinfo(member).file_size
        file = stack.enter_context(opened.open(member))
        etag += f"-{member}"
    if fault is None or fault.kind not in ("truncate", "corrupt"):
        return ServedFile(file, num_bytes, f'"{etag}"')
    data = fault.damage(file.read())
    return ServedFile(io.BytesIO(data), len(data), f'"{hashlib.sha256(data).hexdigest()[:32]}"')
