"""The members of zip, tar and 7z archives, read in the order of their bytes."""

import bz2
import gzip
import importlib
import io
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from carclf.errors import DataError
from carclf.temporary import temporary_folder

# The exceptions that zipfile and tarfile raise for damaged archives. Fuzzing discovered them.
ARCHIVE_ERRORS = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError,
    ValueError, OSError, OverflowError, IndexError, struct.error,
)
ZIP = ".zip"
_DECOMPRESSORS: Mapping[str, Callable[[Any], Any]] = {
    ".tar": nullcontext, ".tar.gz": gzip.open, ".tgz": gzip.open, ".tar.bz2": bz2.open, ".tbz2": bz2.open,
    ".tar.xz": lzma.open, ".txz": lzma.open,
}
SEVEN_ZIP = ".7z"
UNSUPPORTED_SUFFIXES = (".rar", ".zst", ".lz4", ".gz", ".bz2", ".xz", ".z", ".z01", ".001")
_VOLUME = re.compile(r"(?s)(.+)\.([0-9]{3,4})", re.ASCII)
_UTF8_FLAG = 0x800
_BUFFER_BYTES = 1 << 20
_REGULAR_TYPES = {0, stat.S_IFREG, stat.S_IFDIR}  # 0: the archiver stored no type


@dataclass(frozen=True)
class Member:
    """A file or folder in an archive. ``open`` returns its content, before the next member is read."""

    name: str
    num_bytes: int
    is_folder: bool
    is_special: bool  # a link, a device or a pipe
    is_seekable: bool
    open: Callable[[], IO[bytes]]


def archive_suffix(name: str) -> str:
    """Return the suffix of an archive that can be read, in lower case, or "" for another file."""
    return next((suffix for suffix in (ZIP, SEVEN_ZIP, *_DECOMPRESSORS) if name.lower().endswith(suffix)), "")


def split_volume(name: str) -> tuple[str, int] | None:
    """Return the name of the archive and the number of the volume, from 1, or None for a file that is no volume."""
    match = _VOLUME.fullmatch(name)
    return (match[1], int(match[2])) if match and archive_suffix(match[1]) else None


def is_archive(name: str) -> bool:
    """Return True for an archive that can be read, and for a volume of one."""
    return bool(archive_suffix(name) or split_volume(name))


def require_all_volumes(name: str, numbers: Iterable[int]) -> None:
    """Raise DataError that names the first missing volume of an archive. The last ones may be missing unnoticed."""
    present = set(numbers)
    if missing := set(range(1, max(present) + 1)) - present:
        raise DataError(f"The volume {name}.{min(missing):03d} is missing; volumes up to {max(present):03d} exist. Add "
                        "it.")


def read_members(file: IO[bytes], suffix: str, charge: Callable[[int], None], work: Path) -> Iterator[Member]:
    """Yield the members of an archive. Raises one of ARCHIVE_ERRORS if it is damaged.

    ``charge`` is called with numbers of decompressed bytes and may raise an error to limit them. ``work`` is a folder
    for temporary files. Raises ImportError for a 7z archive if the package py7zr is not installed.
    """
    if suffix == ZIP:
        return _read_zip(file)
    if suffix == SEVEN_ZIP:
        return _read_seven_zip(file, charge, work)
    return _read_tar(file, _DECOMPRESSORS[suffix], charge)


def _read_zip(file: IO[bytes]) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        # Seeking back in a compressed archive means reading it again.
        for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
            name = _zip_name(info)
            is_special = stat.S_IFMT(info.external_attr >> 16) not in _REGULAR_TYPES
            is_folder = name.endswith(("/", "\\"))
            yield Member(name, info.file_size, is_folder, is_special, True, partial(archive.open, info))


def _zip_name(info: zipfile.ZipInfo) -> str:
    try:
        return info.filename if info.flag_bits & _UTF8_FLAG else _decode_name(info.filename.encode("cp437"))
    except UnicodeEncodeError:  # since Python 3.12 the name may be from the extra field
        return info.filename


def _decode_name(name: bytes) -> str:
    """Decode a name in an unknown encoding: UTF-8 if possible, else code page 437, which has all 256 characters."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("cp437")


def _read_seven_zip(file: IO[bytes], charge: Callable[[int], None], work: Path) -> Iterator[Member]:
    """Extract an archive into a temporary folder, because it cannot be read member by member, and yield its files."""
    py7zr: Any = importlib.import_module("py7zr")
    with temporary_folder(work) as folder:
        with _as_value_errors(py7zr), py7zr.SevenZipFile(file) as archive:
            infos = archive.list()
            charge(sum(info.uncompressed for info in infos))
            for info in infos:
                is_special = not (info.is_file or info.is_directory)
                if is_special or info.filename.startswith("/") or ".." in info.filename.split("/"):
                    yield Member(info.filename, 0, False, is_special, True, io.BytesIO)  # it is rejected
            archive.extractall(folder)
        for path in sorted(folder.rglob("*")):
            is_special = path.is_symlink() or not (path.is_file() or path.is_dir())
            name = path.relative_to(folder).as_posix()
            yield Member(name, 0, path.is_dir(), is_special, True, partial(_open_file, path))


def _open_file(path: Path) -> IO[bytes]:
    return path.open("rb")


@contextmanager
def _as_value_errors(py7zr: Any) -> Iterator[None]:
    """Raise ValueError, which is in ARCHIVE_ERRORS, for what py7zr raises for damaged archives."""
    errors = py7zr.exceptions
    try:
        yield
    except (errors.ArchiveError, errors.AbsolutePathError, errors.PasswordRequired, TypeError, LookupError,
            AttributeError, AssertionError, MemoryError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _read_tar(file: IO[bytes], decompress: Callable[[Any], Any], charge: Callable[[int], None]) -> Iterator[Member]:
    with decompress(file) as content:
        stream: Any = _ChargedReader(content, charge)
        with tarfile.open(fileobj=stream, mode="r|", encoding="utf-8", errors="surrogateescape") as archive:
            for info in archive:
                name = _decode_name(info.name.encode("utf-8", "surrogateescape"))
                is_special = not (info.isfile() or info.isdir())
                yield Member(name, info.size, info.isdir(), is_special, False, partial(_open_tar_member, archive, info))
            _require_end(archive)


def _open_tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    return archive.extractfile(info) or io.BytesIO()


def _require_end(archive: tarfile.TarFile) -> None:
    """Read the rest, which verifies the checksum of compressed archives. tarfile ends at an invalid header."""
    rest: Any = archive.fileobj
    while data := rest.read(_BUFFER_BYTES):
        if data.strip(b"\0"):
            raise tarfile.ReadError("a header is invalid")


class _ChargedReader:
    """Read a stream and charge its bytes."""

    def __init__(self, file: IO[bytes], charge: Callable[[int], None]) -> None:
        self._file = file
        self._charge = charge

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._charge(len(data))
        return data
