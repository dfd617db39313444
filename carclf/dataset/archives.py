"""Archives of images: safe extraction, and packing that is reproducible to the byte."""

import errno
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from carclf.artifacts import Archive, cache_folder, fetch_file, verified_folder
from carclf.dataset.archive_members import ARCHIVE_ERRORS, ZIP, Member, archive_suffix, read_members
from carclf.dataset.layout import TABLES, is_image, is_in_junk_folder, is_junk_file, path_below_top, stored_name
from carclf.errors import ConfigError, DataError
from carclf.services.storage import Store

LAYOUT_VERSION = 2  # of the folders in the cache
FIXED_DATE = (2020, 1, 1, 0, 0, 0)
UNIX = 3  # the operating system in a member's header
MAX_DEPTH = 2  # archives within the archive: Kaggle's train.zip and test.zip, and one level more
# Images hardly compress: an archive that expands more than this is meant to fill the disk.
MAX_EXPANSION, ALWAYS_ALLOWED = 100, 100_000_000  # factor, and bytes that any archive may expand to
BUFFER_BYTES = 1 << 20
IGNORED_FILES = "ignored_files.json"
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE}
_NAME_ERRORS = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}


def extract(archive: Path, folder: Path, *, top_folders: tuple[str, ...]) -> list[str]:
    """Extract the images and folders under the top folders, and the tables, also from archives within the archive.

    Return the names of the other files, except those of file managers. Raises DataError if an archive is damaged,
    expands too much, or has links, duplicate names or names outside the folder; ConfigError if the system cannot store
    a name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with archive.open("rb") as file:
        extractor = _Extractor(folder, top_folders, archive.stat().st_size)
        extractor.extract(file, ZIP, ())
    return extractor.ignored


class _Extractor:
    def __init__(self, folder: Path, top_folders: tuple[str, ...], num_bytes: int) -> None:
        self.folder = folder
        self.top_folders = top_folders
        self.bytes_left = ALWAYS_ALLOWED + MAX_EXPANSION * num_bytes
        self.ignored: list[str] = []

    def extract(self, file: IO[bytes], suffix: str, parents: tuple[str, ...]) -> None:
        """Extract an archive. ``parents`` are the archives that it is in and its own path."""
        name = f"{parents[-1]} in the archive" if parents else "the archive"
        if len(parents) > MAX_DEPTH:
            raise DataError(f"{name} is nested in {len(parents)} other archives, but at most {MAX_DEPTH} are allowed. "
                            "Put its images into one archive.")
        # Some hosts leave out the top folder in train.zip: the archive's name replaces it.
        prefix = parents[-1][: -len(suffix)].split("/") if parents else []
        with _raise_data_errors(name):
            for member in read_members(file, suffix, partial(self._charge, name)):
                self._charge(member.name, member.num_bytes)
                self._extract_member(member, [*prefix, *_safe_parts(member)], parents)

    def _charge(self, name: str, num_bytes: int) -> None:
        self.bytes_left -= num_bytes
        if self.bytes_left < 0:
            raise DataError(f"The archive would expand to more than {MAX_EXPANSION} times its size (at {name!r}). Do "
                            "not use this archive.")

    def _extract_member(self, member: Member, parts: list[str], parents: tuple[str, ...]) -> None:
        if not parts or is_in_junk_folder(parts):
            return
        name = "/".join(parts)
        with _raise_data_errors(f"{name!r} in the archive"):
            if member.is_folder:
                self._create_folder(parts)
            elif is_junk_file(parts[-1]):
                self._create_folder(parts[:-1])
            elif suffix := archive_suffix(name):
                with member.open() as source, self._seekable(source, member, suffix) as file:
                    self.extract(file, suffix, (*parents, name))
            else:
                self._extract_file(member, parts)

    def _create_folder(self, parts: list[str]) -> str | None:
        """Create a folder below a top folder, so that an empty class folder is noticed; return its path."""
        if path := path_below_top(parts, self.top_folders):
            (self.folder / path).mkdir(parents=True, exist_ok=True)
        return path

    def _extract_file(self, member: Member, parts: list[str]) -> None:
        folder = self._create_folder(parts[:-1])
        path = parts[-1].lower()
        if path not in TABLES:
            path = f"{folder}/{stored_name(parts[-1])}"
            if folder is None or not is_image(path):
                self.ignored.append("/".join(parts))
                return
        target = self.folder / path
        with member.open() as source:
            if not target.exists():
                with target.open("xb") as file:
                    shutil.copyfileobj(source, file, BUFFER_BYTES)
            elif not _has_content(target, source):
                raise DataError(f"The archive contains two different files {path}. Rename one of them.")

    @contextmanager
    def _seekable(self, source: IO[bytes], member: Member, suffix: str) -> Iterator[IO[bytes]]:
        """Yield the source, or a temporary copy if it cannot be read as a zip archive: that starts at its end."""
        if suffix != ZIP or member.is_seekable:
            yield source
            return
        with tempfile.TemporaryFile(dir=self.folder) as file:
            shutil.copyfileobj(source, file, BUFFER_BYTES)
            yield file


def _safe_parts(member: Member) -> tuple[str, ...]:
    """Return the parts of a member's path. Raises DataError for links and for paths outside of the folder."""
    if member.is_special:
        raise DataError(f"The archive contains {member.name!r}, a link or a device. Do not use this archive.")
    name = member.name.replace("\\", "/")
    parts = PurePosixPath(name).parts
    if ".." in parts or name.startswith("/"):
        raise DataError(f"The archive contains {member.name!r}, which is outside of its folder. Do not use this "
                        "archive.")
    return parts


def _has_content(path: Path, source: IO[bytes]) -> bool:
    with path.open("rb") as file:
        chunks = iter(partial(source.read, BUFFER_BYTES), b"")
        return all(chunk == file.read(len(chunk)) for chunk in chunks) and not file.read(1)


@contextmanager
def _raise_data_errors(name: str) -> Iterator[None]:
    """Turn the exceptions of a damaged archive into DataError with its name; errors of the disk pass through."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise ConfigError(f"{name} cannot be stored: this system's locale has the encoding {error.encoding}. Set "
                          "PYTHONUTF8=1 or LC_ALL=C.UTF-8.") from error
    except ARCHIVE_ERRORS as error:
        number = error.errno if isinstance(error, OSError) else None
        if number in _DISK_ERRORS:
            raise
        message = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if number in _NAME_ERRORS:
            raise DataError(f"{name} cannot be stored on this disk: {message}. Its path is too long, or another file "
                            "has the name of one of its folders.") from error
        raise DataError(f"{name} is damaged: {message}. Start a new run with --set force=true to download it "
                        "again. If it is still damaged, notify the host of the competition.") from error


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


def images_folder(archive: Archive) -> Path:
    """Return the local folder of an archive's images, which may be missing."""
    return cache_folder() / "images" / f"{archive.content_hash}-{LAYOUT_VERSION}"


def extract_images(archive: Archive, store: Store) -> Path:
    """Return a local folder with ``train/<class>/*``, ``test_upload/*``, ``extra/<n>/<class>/*`` and the tables.

    The same content is extracted once per machine and verified once per process. Raises DataError if the archive is
    damaged or unsafe.
    """
    folder = images_folder(archive)

    def write(work: Path) -> None:
        ignored = extract(fetch_file(store, archive.file("archive.zip")), work, top_folders=("train", "test_upload"))
        (work / IGNORED_FILES).write_text(json.dumps(ignored))
        if extra := archive.files.get("extra.zip"):
            extract(fetch_file(store, extra), work, top_folders=("extra",))

    verified_folder(folder, write)
    return folder


def read_ignored_files(folder: Path) -> list[str]:
    """Return the names of the files that ``extract_images`` did not extract."""
    path = folder / IGNORED_FILES
    return list(map(str, json.loads(path.read_text()))) if path.exists() else []
