"""Archives of images: safe extraction, and packing that is reproducible to the byte."""

import errno
import json
import shutil
import tempfile
import zipfile
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from carclf.artifacts import Archive, File, cache_folder, damaged_error, fetch_file, verified_folder
from carclf.dataset.archive_members import (
    ARCHIVE_ERRORS,
    SEVEN_ZIP,
    ZIP,
    Member,
    archive_suffix,
    read_members,
    require_all_volumes,
    split_volume,
)
from carclf.dataset.layout import (
    EXTRA_FOLDER,
    HIDDEN,
    TABLE_SUFFIXES,
    hidden_folder,
    is_in_junk_folder,
    is_junk_file,
    is_useful,
    stored_name,
)
from carclf.errors import ConfigError, DamagedArtifactError, DataError
from carclf.services.storage import Store

LAYOUT_VERSION = 4  # of the folders in the cache
FIXED_DATE = (2020, 1, 1, 0, 0, 0)
UNIX = 3  # the operating system in a member's header
MAX_DEPTH = 2  # archives within the archive: Kaggle's train.zip and test.zip, and one level more
# Images hardly compress: an archive that expands more than this is meant to fill the disk.
MAX_EXPANSION, ALWAYS_ALLOWED = 100, 100_000_000  # factor, and bytes that any archive may expand to
BUFFER_BYTES = 1 << 20
IGNORED_FILES = ".ignored_files.json"  # hidden: no file of a source has this name
_OTHER_ARCHIVE = "Set data.source to another copy of the data, or pack the images again."
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE}
_NAME_ERRORS = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}


def extract(archive: Path, folder: Path) -> dict[str, str]:
    """Extract the images, tables and JSON files, also from archives within the archive, each to its path.

    Return the other paths, except those of file managers, as ``read_ignored_files``. Raises DataError if an archive is
    damaged, expands too much, or has links, duplicate names or names outside the folder; ConfigError if the system
    cannot store a name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    extractor = _Extractor(folder, archive.stat().st_size)
    with archive.open("rb") as file:
        extractor.extract(file, archive_suffix(archive.name) or ZIP, ())
    extractor.extract_volumes()
    return extractor.ignored


class _Extractor:
    def __init__(self, folder: Path, num_bytes: int) -> None:
        self.folder = folder
        self.bytes_left = ALWAYS_ALLOWED + MAX_EXPANSION * num_bytes
        self.ignored: dict[str, str] = {}  # as read_ignored_files
        # Copies of the volumes by number. The key is the path of the joined archive, after the archives that it is in.
        self.volumes: dict[tuple[str, ...], dict[int, IO[bytes]]] = {}

    def extract(
        self, file: IO[bytes], suffix: str, parents: tuple[str, ...], names: Container[str] | None = None
    ) -> None:
        """Extract an archive, or only the members with these names.

        ``parents`` are the archives that it is in and its own path.
        """
        name = f"{parents[-1]} in data.source" if parents else "The archive of data.source"
        if len(parents) > MAX_DEPTH:
            raise DataError(f"{name} is nested in {len(parents)} other archives, but at most {MAX_DEPTH} are allowed. "
                            "Put its images into one archive.")
        with _raise_data_errors(name):
            for member in read_members(file, suffix, partial(self._charge, name), self.folder):
                if names is None or member.name in names:
                    self._charge(member.name, member.num_bytes)
                    self._extract_member(member, _target(_safe_parts(member), parents, suffix), parents)

    def extract_volumes(self) -> None:
        """Extract the archives that were split into volumes, also those within others."""
        while self.volumes:
            key, volumes = self.volumes.popitem()
            require_all_volumes(key[-1], volumes)
            with tempfile.TemporaryFile(dir=self.folder) as file:
                for number in sorted(volumes):
                    with volumes[number] as volume:
                        volume.seek(0)
                        shutil.copyfileobj(volume, file, BUFFER_BYTES)
                file.seek(0)
                self.extract(file, archive_suffix(key[-1]), key)

    def _charge(self, name: str, num_bytes: int) -> None:
        self.bytes_left -= num_bytes
        if self.bytes_left < 0:
            raise DataError(f"The archive would expand to more than {MAX_EXPANSION} times its size (at {name!r}). "
                            f"{_OTHER_ARCHIVE}")

    def _extract_member(self, member: Member, parts: list[str], parents: tuple[str, ...]) -> None:
        if not parts or is_in_junk_folder(parts):
            if folder := hidden_folder(parts):
                self.ignored[folder] = HIDDEN
            return
        name = "/".join(parts)
        with _raise_data_errors(f"{name!r} in data.source"):
            if member.is_folder:
                self.create_folder(parts)
            elif is_junk_file(parts[-1]):
                self.create_folder(parts[:-1])
            elif suffix := archive_suffix(name):
                with member.open() as source, self._seekable(source, member, suffix) as file:
                    self.extract(file, suffix, (*parents, name))
            elif volume := split_volume(name):
                self.volumes.setdefault((*parents, volume[0]), {})[volume[1]] = self._copy(member)
            elif is_useful(parts):
                self._extract_file(member, parts)
            else:
                self.ignored[name] = ""

    def create_folder(self, parts: list[str]) -> Path:
        """Create a folder and return its path. An empty class folder is noticed because it is created too."""
        folder = self.folder.joinpath(*map(stored_name, parts))
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _extract_file(self, member: Member, parts: list[str]) -> None:
        target = self.create_folder(parts[:-1]) / stored_name(parts[-1])
        with member.open() as source:
            if not target.exists():
                with target.open("xb") as file:
                    shutil.copyfileobj(source, file, BUFFER_BYTES)
            elif not _has_content(target, source):
                path = target.relative_to(self.folder).as_posix()
                raise DataError(f"The archive contains two different files {path}. Rename one of them.")

    def _copy(self, member: Member) -> IO[bytes]:
        copy: IO[bytes] = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115  # the caller closes it
        with member.open() as source:
            shutil.copyfileobj(source, copy, BUFFER_BYTES)
        return copy

    @contextmanager
    def _seekable(self, source: IO[bytes], member: Member, suffix: str) -> Iterator[IO[bytes]]:
        """Yield the source, or a temporary copy if zip or 7z needs a seekable file: they start at the end."""
        if suffix not in {ZIP, SEVEN_ZIP} or member.is_seekable:
            yield source
            return
        with self._copy(member) as file:
            file.seek(0)
            yield file


def _safe_parts(member: Member) -> tuple[str, ...]:
    """Return the parts of a member's path. Raises DataError for links and for paths outside of the folder."""
    if member.is_special:
        raise DataError(f"The archive contains {member.name!r}, a link or a device. {_OTHER_ARCHIVE}")
    name = member.name.replace("\\", "/")
    parts = PurePosixPath(name).parts
    if ".." in parts or name.startswith("/"):
        raise DataError(f"The archive contains {member.name!r}, which is outside of its folder. {_OTHER_ARCHIVE}")
    return parts


def _target(parts: tuple[str, ...], parents: tuple[str, ...], suffix: str) -> list[str]:
    """Return the path of a member: below the folder of its archive and the archive's name.

    A single table (``train.csv.zip``) has no folder of its own, and a folder with the archive's name is not doubled.
    """
    if not parents:
        return list(parts)
    *folders, name = parents[-1].split("/")
    stem = name[: -len(suffix)]
    is_doubled = len(parts) > 1 and parts[0].casefold() == stem.casefold()
    if is_doubled or PurePosixPath(stem).suffix.lower() in TABLE_SUFFIXES:
        return [*folders, *parts]
    return [*folders, stem, *parts]


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
    except ImportError as error:
        raise DataError(f"{name} is a 7z archive. Reading it needs the package py7zr, which is not installed: "
                        "pip install 'carclf[7z]'. Or pack the images as zip.") from error
    except ARCHIVE_ERRORS as error:
        number = error.errno if isinstance(error, OSError) else None
        if number in _DISK_ERRORS:
            raise
        message = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if number in _NAME_ERRORS:
            raise DataError(f"{name} cannot be stored on this disk: {message}. Its path is too long, or another file "
                            "has the name of one of its folders.") from error
        raise DataError(f"{name} is damaged: {message}. Replace it by a complete copy. If it was downloaded, start a "
                        "new run with --set force=true, which downloads it again.") from error


def pack(path: Path, images: Mapping[str, Path]) -> None:
    """Write the images into an archive under their names; the same images give the same bytes in any order."""
    write_archive(path, dict(sorted(images.items())))


def write_archive(path: Path, files: Mapping[str, Path]) -> None:
    """Write the files in their order into an archive, uncompressed; the same files give the same bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, source in files.items():
            add_file(archive, name, source)


def add_file(archive: zipfile.ZipFile, name: str, source: Path) -> None:
    """Add a file to an archive, uncompressed, with bytes that depend only on its name and content."""
    member = zipfile.ZipInfo(name, FIXED_DATE)
    member.create_system, member.external_attr = UNIX, 0o644 << 16  # the defaults depend on the system
    member.file_size = source.stat().st_size
    with source.open("rb") as content, archive.open(member, "w") as target:
        shutil.copyfileobj(content, target, BUFFER_BYTES)


def images_folder(archive: Archive) -> Path:
    """Return the local folder of an archive's images, which may be missing."""
    return cache_folder() / "images" / f"{archive.content_hash}-{LAYOUT_VERSION}"


def extract_images(archive: Archive, store: Store) -> Path:
    """Return a local folder with the images, tables and JSON files of the source, each at its path in the source.

    Extra data are in ``extra-data/<n>/<class>/``. The same content is extracted once per machine and verified once per
    process. Raises DataError if the archive is damaged or unsafe.
    """
    folder = images_folder(archive)

    def write(work: Path) -> None:
        if archive.is_packed:
            ignored = _extract_packs(archive, store, work)
        else:
            ignored = extract(_fetch(archive, store, archive.archive_file), work)
        if (work / EXTRA_FOLDER).exists():
            raise DataError(f"data.source contains the folder {EXTRA_FOLDER}, which is the name of the folder for "
                            "download.extra_data. Rename it.")
        (work / IGNORED_FILES).write_text(json.dumps(ignored))
        if extra := archive.files.get("extra.zip"):
            extract(_fetch(archive, store, extra), work)

    verified_folder(folder, write)
    return folder


def _extract_packs(archive: Archive, store: Store, work: Path) -> dict[str, str]:
    """Extract the files of the listing from the packs, which may contain earlier versions of them too.

    Return the ignored files as ``read_ignored_files`` does.
    """
    listing = archive.table(store, "listing.parquet")
    packs = {str(name): set(paths) for name, paths in listing[listing["pack"] != ""].groupby("pack")["path"]}
    extractor = _Extractor(work, sum(archive.file(name).num_bytes for name in packs))
    for name, paths in packs.items():
        with _fetch(archive, store, archive.file(name)).open("rb") as file:
            extractor.extract(file, ZIP, (), paths)
    extractor.extract_volumes()
    unpacked = listing[listing["pack"] == ""]
    ignored = extractor.ignored
    for path, reason in zip(map(str, unpacked["path"]), map(str, unpacked["reason"]), strict=True):
        if path.endswith("/"):
            extractor.create_folder(path[:-1].split("/"))
        else:
            ignored[path] = reason
    return ignored


def _fetch(archive: Archive, store: Store, file: File) -> Path:
    """Return the local copy of a file; name this archive if the file is damaged, even if it is another's pack."""
    try:
        return fetch_file(store, file)
    except DamagedArtifactError as error:
        raise damaged_error(store, f"{archive.folder}/{archive.key}", error.problem) from error


def read_ignored_files(folder: Path) -> dict[str, str]:
    """Return why each file was not extracted by ``extract_images``; "" if it is neither an image nor a table."""
    path = folder / IGNORED_FILES
    return dict(json.loads(path.read_text())) if path.exists() else {}
