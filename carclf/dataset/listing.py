"""Sources that list their files: folders and buckets. A listing shows what is new before anything is read."""

import errno
import os
import re
import stat
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

from carclf.config.sources import Source
from carclf.dataset.archive_members import is_archive
from carclf.dataset.layout import is_in_junk_folder, is_junk_file, is_useful
from carclf.errors import CarclfError, ConfigError, DataError, ServiceError
from carclf.os_errors import expand_home
from carclf.progress import log
from carclf.services.storage.bucket import Bucket, BucketObject
from carclf.temporary import temporary_folder

NUM_THREADS = 10  # botocore keeps this many connections; downloads of small objects wait for the network
MAX_PENDING = 4 * NUM_THREADS  # objects on the disk before they are packed
_UNUSABLE_CHARACTERS = re.compile(r"[\\\x00-\x1f\x7f\ud800-\udfff]")  # a backslash separates folders on some systems
_UNUSABLE_PARTS = {"", ".", ".."}  # of keys in a bucket: as paths, they would be other ones


class Entry(NamedTuple):
    """A file: its path in the source, its size in bytes, and a version that changes with its content."""

    path: str
    num_bytes: int
    version: str  # time of the last change in nanoseconds, or ETag


class Listing(NamedTuple):
    """The files that a dataset can use, and the paths of the others, both sorted by path."""

    entries: list[Entry]
    ignored: list[str]


class ListedSource(Protocol):
    """A source that lists its files and reads some of them."""

    name: str

    def list_entries(self) -> Iterator[Entry]:
        """Yield all files. Raise DataError or ConfigError that names data.source if that is not possible."""

    def read(self, entries: Iterable[Entry]) -> Generator[tuple[Entry, Path], None, None]:
        """Yield a local file for each entry, valid until the next one. Raise ServiceError if it has changed."""


def list_source(source: ListedSource) -> Listing:
    """List the files, without hidden ones and those of file managers.

    Raises DataError that names data.source if there is none, or if a name cannot be used on every system.
    """
    entries: list[Entry] = []
    ignored: list[str] = []
    for entry in source.list_entries():
        parts = entry.path.split("/")
        has_no_path = not _UNUSABLE_PARTS.isdisjoint(parts)
        if not has_no_path and (is_in_junk_folder(parts) or is_junk_file(parts[-1])):
            continue
        if has_no_path or _UNUSABLE_CHARACTERS.search(entry.path):
            raise DataError(f"data.source: {source.name} contains {entry.path!r}, a name that not every system "
                            "supports. Rename it: use printable characters without backslashes.")
        if is_useful(parts) or is_archive(parts[-1]):
            entries.append(entry)
        else:
            ignored.append(entry.path)
    if not entries:
        content = f"only {min(ignored)} and the like" if ignored else "no files"
        raise DataError(f"data.source: {source.name} contains {content}. Set a folder or prefix with images, tables or "
                        "archives.")
    return Listing(sorted(entries), sorted(ignored))


class Folder:
    """A local folder. Links to files and folders are followed."""

    def __init__(self, path: str) -> None:
        self.folder = expand_home(path, "data.source").absolute()
        self.name = str(self.folder)

    def list_entries(self) -> Iterator[Entry]:
        """Yield all regular files. The version is the time of the last change."""
        if self.folder.is_file():
            raise DataError(f"data.source: {self.name} is a file, but not an archive that can be read: zip, tar, "
                            "tar.gz, tar.bz2, tar.xz, or 7z. Set such an archive or a folder.")
        if not self.folder.is_dir():
            raise DataError(f"data.source: the folder {self.name} is missing. Set a folder that this machine can read.")
        with name_setting(self.name):
            yield from _walk(self.folder, "", ())

    def read(self, entries: Iterable[Entry]) -> Generator[tuple[Entry, Path], None, None]:
        """Yield the path of each entry, and compare its size and time with the listing before and afterwards."""
        for entry in entries:
            path = self.folder / entry.path
            self._require_unchanged(path, entry)
            yield entry, path
            self._require_unchanged(path, entry)

    def _require_unchanged(self, path: Path, entry: Entry) -> None:
        status = path.stat()
        if (status.st_size, str(status.st_mtime_ns)) != (entry.num_bytes, entry.version):
            raise _changed_error(str(path))


def _changed_error(path: str) -> ServiceError:
    return ServiceError(f"data.source: {path} was changed while it was read. Run download again while nobody writes to "
                        "this folder.")


def _walk(folder: Path, prefix: str, parents: tuple[tuple[int, int], ...]) -> Iterator[Entry]:
    folder_status = folder.stat()
    identity = folder_status.st_dev, folder_status.st_ino
    if identity in parents:
        log.warning("download: skipped a link to a folder above it path=%s", folder)
        return
    with os.scandir(folder) as scanned:
        items = list(scanned)
        if not items and prefix:
            log.warning("download: a folder is empty path=%s", folder)
        for item in items:
            path = f"{prefix}{item.name}"
            if is_junk_file(item.name) or (status := _stat(item)) is None:
                continue
            if stat.S_ISDIR(status.st_mode):
                if not is_in_junk_folder((item.name, "")):
                    yield from _walk(folder / item.name, f"{path}/", (*parents, identity))
            elif stat.S_ISREG(status.st_mode):
                yield Entry(path, status.st_size, str(status.st_mtime_ns))
            else:  # a pipe would block
                log.warning("download: skipped a device or a pipe path=%s", item.path)


def _stat(item: "os.DirEntry[str]") -> os.stat_result | None:
    try:
        return item.stat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP) or not item.is_symlink():
            raise
        log.warning("download: skipped a broken link path=%s", item.path)
        return None


class BucketPrefix:
    """The objects of a bucket below a prefix."""

    def __init__(self, url: str) -> None:
        self.name = url
        with name_setting(url):
            self.bucket = Bucket(url)

    def list_entries(self) -> Iterator[Entry]:
        """Yield all objects. The version is the ETag."""
        with name_setting(self.name):
            for item in self.bucket.list_objects():
                yield Entry(item.path, item.num_bytes, item.version)

    def read(self, entries: Iterable[Entry]) -> Generator[tuple[Entry, Path], None, None]:
        """Download the entries in parallel, and yield them in their order."""
        pending: deque[tuple[Entry, Future[Path]]] = deque()
        with temporary_folder() as folder, ThreadPoolExecutor(NUM_THREADS) as pool, name_setting(self.name):
            try:
                for number, entry in enumerate(entries):
                    pending.append((entry, pool.submit(self._download, entry, folder / str(number))))
                    if len(pending) >= MAX_PENDING:
                        yield from _take_first(pending)
                while pending:
                    yield from _take_first(pending)
            finally:
                pool.shutdown(cancel_futures=True)

    def _download(self, entry: Entry, path: Path) -> Path:
        self.bucket.fetch(BucketObject(*entry), path)
        return path


def _take_first(pending: deque[tuple[Entry, Future[Path]]]) -> Iterator[tuple[Entry, Path]]:
    entry, future = pending.popleft()
    path = future.result()
    yield entry, path
    path.unlink(missing_ok=True)  # the caller may have moved it


def open_listed(source: Source) -> Folder | BucketPrefix:
    """Return the folder or the bucket that a source names."""
    return BucketPrefix(source.name) if source.kind == "bucket" else Folder(source.name)


@contextmanager
def name_setting(name: str) -> Iterator[None]:
    """Let the errors that occur while a source is read name data.source."""
    try:
        yield
    except FileNotFoundError as error:
        raise _changed_error(str(error.filename)) from error
    except PermissionError as error:
        raise DataError(f"data.source: cannot read {error.filename or name}: {error.strerror}. Let this user read all "
                        "files of the source, or set another one.") from error
    except (ConfigError, ServiceError) as error:
        raise _with_setting(error) from error


def _with_setting(error: CarclfError) -> CarclfError:
    return error if "data.source" in str(error) else type(error)(f"data.source: {error}")
