"""Archives of pictures: unpacked without ever leaving the folder, and packed to the same bytes each time."""

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

EPOCH = (2020, 1, 1, 0, 0, 0)
MAX_DEPTH = 2  # archives within the archive: Kaggle's train.zip and test.zip, and one more
# Pictures hardly shrink: an archive that grows like this is made to fill the disk.
MAX_EXPANSION, ALWAYS_ALLOWED = 100, 100_000_000
# What zipfile raises for broken archives, found by fuzzing.
BROKEN = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError, ValueError, OSError,
    OverflowError, IndexError, struct.error,
)

_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE}


def extract(archive: Path, folder: Path, *, top_folders: tuple[str, ...]) -> None:
    """Unpack what lies under one of the top folders, and every CSV, also from archives within the archive.

    DataError for damage, names that leave the folder, links, names that occur twice, and far too much content.
    """
    with archive.open("rb") as file:
        _Unpacking(folder, top_folders, archive.stat().st_size).unpack(file, "the archive", 0)


class _Unpacking:
    def __init__(self, folder: Path, top_folders: tuple[str, ...], num_bytes: int) -> None:
        self.folder, self.top_folders = folder, top_folders
        self.room = ALWAYS_ALLOWED + MAX_EXPANSION * num_bytes

    def unpack(self, file: IO[bytes], name: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise DataError(f"{name} is an archive within {depth} others. Pack its pictures into one archive.")
        with _naming(name), zipfile.ZipFile(file) as opened:
            # In the order of their bytes: going back in a compressed archive means reading it anew.
            for member in sorted(opened.infolist(), key=lambda member: member.header_offset):
                if not member.is_dir():
                    self._place(opened, member, depth)

    def _place(self, opened: zipfile.ZipFile, member: zipfile.ZipInfo, depth: int) -> None:
        if stat.S_ISLNK(member.external_attr >> 16):
            raise DataError(f"The archive holds {member.filename!r}, which is a link. Do not use this archive.")
        path = self._path(member.filename)
        if path is None and not member.filename.endswith(".zip"):
            return
        self.room -= member.file_size
        if self.room < 0:
            raise DataError(f"The archive would grow more than {MAX_EXPANSION} times when it is unpacked (at "
                            f"{member.filename!r}). Do not use this archive.")
        with _naming(f"{member.filename!r} in the archive"), opened.open(member) as source:
            if path is None:
                self.unpack(source, f"{member.filename} in the archive", depth + 1)
            elif not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
            elif not _same(path, member):
                raise DataError(f"The archive holds {path.relative_to(self.folder)} twice. Rename one of them.")

    def _path(self, name: str) -> Path | None:
        """Where a member belongs; None for what is of no interest; DataError for a name that leaves the folder."""
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if ".." in parts or name.startswith(("/", "\\")):
            raise DataError(f"The archive holds {name!r}, which leaves its folder. Do not use this archive.")
        # Finders and shells leave hidden files beside the pictures.
        hidden = any(part.startswith(".") for part in parts) or "__MACOSX" in parts[:-1]
        if not parts or hidden or parts[-1].endswith(".zip"):
            return None
        for top in self.top_folders:  # Kaggle's inner archives may have an extra top folder
            if top in parts[:-1]:
                return self.folder.joinpath(*parts[parts.index(top):])
        return self.folder / parts[-1] if parts[-1].endswith(".csv") else None


def _same(path: Path, member: zipfile.ZipInfo) -> bool:
    return path.stat().st_size == member.file_size and zlib.crc32(path.read_bytes()) == member.CRC


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Damage as a DataError that names the archive or the member; a full disk stays an error of its own."""
    try:
        yield
    except OSError as error:
        if error.errno in _OF_THE_DISK:
            raise
        raise _damaged(name, error) from error
    except BROKEN as error:
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> DataError:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return DataError(f"{name} is damaged: {text}. Run again with force to download it anew; if it stays so, tell the "
                     "competition's host.")


def pack(path: Path, pictures: Mapping[str, Path]) -> None:
    """Store the files under their names, sorted and with a fixed date: the same pictures give the same bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, source in sorted(pictures.items()):
            member = zipfile.ZipInfo(name, EPOCH)
            # What a ZipInfo would take from the system is fixed here.
            member.create_system, member.external_attr = 3, 0o644 << 16
            member.file_size = source.stat().st_size
            with source.open("rb") as content, archive.open(member, "w") as target:
                shutil.copyfileobj(content, target, 1 << 20)


def extract_images(archive: Archive, store: Store) -> Path:
    """The local folder with ``train/<class>/*``, ``test_upload/*``, ``extra/<n>/<class>/*`` and the CSVs.

    It is unpacked once per content; DataError for archives that are damaged or would leave the folder.
    """
    folder = cache_folder() / "images" / archive.content_hash
    with atomic_folder(folder) as work:
        if work is not None:
            extract(fetch_file(store, archive.files["archive.zip"]), work, top_folders=("train", "test_upload"))
            if extra := archive.files.get("extra.zip"):
                extract(fetch_file(store, extra), work, top_folders=("extra",))
    return folder
