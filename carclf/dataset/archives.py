"""Archives of images: safe extraction, and packing that is reproducible to the byte."""

import errno
import lzma
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from carclf.artifacts import Archive, atomic_folder, cache_folder, fetch_file
from carclf.errors import DataError
from carclf.services.storage import Store

FIXED_DATE = (2020, 1, 1, 0, 0, 0)
UNIX = 3  # the operating system in a member's header
MAX_DEPTH = 2  # archives within the archive: Kaggle's train.zip and test.zip, and one level more
# Images hardly compress: an archive that expands more than this is meant to fill the disk.
MAX_EXPANSION, ALWAYS_ALLOWED = 100, 100_000_000  # factor, and bytes that any archive may expand to
BUFFER_BYTES = 1 << 20
# The exceptions that zipfile raises for damaged archives. Fuzzing discovered them.
ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError, ValueError, OSError,
    OverflowError, IndexError, struct.error,
)
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE}


def extract(archive: Path, folder: Path, *, top_folders: tuple[str, ...]) -> None:
    """Extract everything under the top folders, and every CSV, also from archives within the archive.

    Raises DataError if one is damaged, expands too much, or has links, duplicate names or names outside the folder.
    """
    with archive.open("rb") as file:
        _Extractor(folder, top_folders, archive.stat().st_size).extract(file, "the archive", 0)


class _Extractor:
    def __init__(self, folder: Path, top_folders: tuple[str, ...], num_bytes: int) -> None:
        self.folder = folder
        self.top_folders = top_folders
        self.bytes_left = ALWAYS_ALLOWED + MAX_EXPANSION * num_bytes

    def extract(self, file: IO[bytes], name: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise DataError(f"{name} is nested in {depth} other archives, but at most {MAX_DEPTH} are allowed. Put its "
                            "images into one archive.")
        with _raise_data_errors(name), zipfile.ZipFile(file) as archive:
            # In the order of their bytes: seeking back in a compressed archive means reading it again.
            for member in sorted(archive.infolist(), key=lambda member: member.header_offset):
                if not member.is_dir():
                    self._extract_member(archive, member, depth)

    def _extract_member(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, depth: int) -> None:
        if stat.S_ISLNK(member.external_attr >> 16):
            raise DataError(f"The archive contains the link {member.filename!r}. Do not use this archive.")
        path = self._target_path(member.filename)
        if path is None and not member.filename.endswith(".zip"):
            return
        self.bytes_left -= member.file_size
        if self.bytes_left < 0:
            raise DataError(f"The archive would expand to more than {MAX_EXPANSION} times its size (at "
                            f"{member.filename!r}). Do not use this archive.")
        with _raise_data_errors(f"{member.filename!r} in the archive"), archive.open(member) as source:
            if path is None:
                self.extract(source, f"{member.filename} in the archive", depth + 1)
            elif not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as target:
                    shutil.copyfileobj(source, target, BUFFER_BYTES)
            elif path.stat().st_size != member.file_size or zlib.crc32(path.read_bytes()) != member.CRC:
                raise DataError(f"The archive contains two different files {path.relative_to(self.folder)}. Rename one "
                                "of them.")

    def _target_path(self, name: str) -> Path | None:
        """Return the path to extract a member to, or None to skip it; names outside of the folder raise DataError."""
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if ".." in parts or name.startswith(("/", "\\")):
            raise DataError(f"The archive contains {name!r}, which is outside of its folder. Do not use this archive.")
        # File managers leave hidden files next to the images.
        is_hidden = any(part.startswith(".") for part in parts) or "__MACOSX" in parts[:-1]
        if not parts or is_hidden or parts[-1].endswith(".zip"):
            return None
        for top in self.top_folders:  # Kaggle's inner archives may have an additional top folder
            if top in parts[:-1]:
                return self.folder.joinpath(*parts[parts.index(top):])
        return self.folder / parts[-1] if parts[-1].endswith(".csv") else None


@contextmanager
def _raise_data_errors(name: str) -> Iterator[None]:
    """Turn the exceptions of a damaged archive into DataError with its name; errors of the disk pass through."""
    try:
        yield
    except ZIP_ERRORS as error:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise
        message = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"{name} is damaged: {message}. Run again with --set force=true to download it again. If it is "
                        "still damaged, notify the host of the competition.") from error


def pack(path: Path, images: Mapping[str, Path]) -> None:
    """Write the images into an archive under their names; the same images give the same bytes in any order."""
    write_archive(path, dict(sorted(images.items())))


def write_archive(path: Path, files: Mapping[str, Path]) -> None:
    """Write the files in their order into an archive, uncompressed; the same files give the same bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, source in files.items():
            member = zipfile.ZipInfo(name, FIXED_DATE)
            member.create_system, member.external_attr = UNIX, 0o644 << 16  # the defaults depend on the system
            member.file_size = source.stat().st_size
            with source.open("rb") as content, archive.open(member, "w") as target:
                shutil.copyfileobj(content, target, BUFFER_BYTES)


def extract_images(archive: Archive, store: Store) -> Path:
    """Return a local folder with ``train/<class>/*``, ``test_upload/*``, ``extra/<n>/<class>/*`` and the CSVs.

    The same content is extracted once per machine. Raises DataError if the archive is damaged or unsafe.
    """
    folder = cache_folder() / "images" / archive.content_hash
    with atomic_folder(folder) as work:
        if work is not None:
            extract(fetch_file(store, archive.file("archive.zip")), work, top_folders=("train", "test_upload"))
            if extra := archive.files.get("extra.zip"):
                extract(fetch_file(store, extra), work, top_folders=("extra",))
    return folder
