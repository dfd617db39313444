"""Sources that list their files: folders and buckets. A listing shows what is new before anything is read."""

import re
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

from carclf.config.sources import SLUG, Source
from carclf.dataset.archive_members import is_archive
from carclf.dataset.layout import (
    HIDDEN,
    TABLE_SUFFIXES,
    hidden_folder,
    is_in_junk_folder,
    is_junk_file,
    is_useful,
    stored_name,
)
from carclf.dataset.walk import Entry, Skipped, walk
from carclf.errors import ConfigError, DataError, ServiceError, SourceChangedError
from carclf.os_errors import expand_home
from carclf.services.storage.bucket import Bucket, BucketObject
from carclf.temporary import temporary_folder

SETTING = "data.source"
NUM_THREADS = 10  # botocore keeps this many connections; downloads of small objects wait for the network
MAX_PENDING = 4 * NUM_THREADS  # objects on the disk before they are packed
_UNUSABLE_CHARACTERS = re.compile(r"[\\\x00-\x1f\x7f\ud800-\udfff]")  # a backslash separates folders on some systems
_UNUSABLE_PARTS = {"", ".", ".."}  # of keys in a bucket: as paths, they would be other ones


class Listing(NamedTuple):
    """The files that a dataset can use, the empty folders, and the ignored paths, all sorted by path.

    ``ignored`` has the reason of each path that cannot be read; "" for files that are neither images nor tables.
    """

    entries: list[Entry]
    folders: list[str]
    ignored: dict[str, str]


class ListedSource(Protocol):
    """A source that lists its files and reads some of them; ``setting`` is the name of the setting that it is from."""

    name: str
    setting: str

    def list_entries(self) -> Iterator[Entry | Skipped]:
        """Yield all files. Raise DataError or ConfigError that names the setting if that is not possible."""

    def read(self, entries: Iterable[Entry]) -> Generator[tuple[Entry, Path], None, None]:
        """Yield a local file for each entry, valid until the next one. Raise SourceChangedError if it has changed."""

    def fetch(self, entry: Entry, path: Path) -> Path:
        """Return a local file of an entry, which is ``path`` if it is a copy. Raise SourceChangedError if it changed.

        It may be called by several threads.
        """


def list_source(source: ListedSource, *, may_be_empty: bool = False) -> Listing:
    """List the files, without hidden ones and those of file managers.

    Raises DataError that names the setting if there is none, unless it ``may_be_empty``, or if a name cannot be used on
    every system, also next to another one.
    """
    entries: list[Entry] = []
    folders: list[str] = []
    ignored: dict[str, str] = {}
    for entry in _without_junk(source.list_entries()):
        parts = entry.path.removesuffix("/").split("/")
        if not _UNUSABLE_PARTS.isdisjoint(parts) or _UNUSABLE_CHARACTERS.search(entry.path):
            raise DataError(f"{source.setting}: {source.name} contains {entry.path!r}, a name that not every system "
                            "supports. Rename it: use printable characters without backslashes.")
        if isinstance(entry, Skipped):
            ignored[entry.path] = entry.reason
        elif entry.path.endswith("/"):
            folders.append(entry.path)
        elif is_useful(parts) or is_archive(parts[-1]):
            entries.append(entry)
        else:
            ignored[entry.path] = ""
    if not (entries or may_be_empty):
        content = f"only {min(ignored)} and the like" if ignored else "no files"
        raise DataError(f"{source.setting}: {source.name} contains {content}. Set a folder or prefix with images, "
                        "tables or archives.")
    _require_distinct_paths(entries, source)
    return Listing(sorted(entries), sorted(folders), dict(sorted(ignored.items())))


def _without_junk(entries: Iterable[Entry | Skipped]) -> Iterator[Entry | Skipped]:
    """Yield the entries without those of file managers; a hidden folder with images is skipped with a reason."""
    for entry in entries:
        parts = entry.path.removesuffix("/").split("/")
        is_junk = _UNUSABLE_PARTS.isdisjoint(parts) and (is_in_junk_folder(parts) or is_junk_file(parts[-1]))
        if isinstance(entry, Skipped) or not is_junk:
            yield entry
        elif folder := hidden_folder(parts):
            yield Skipped(folder, HIDDEN)


def _require_distinct_paths(entries: Iterable[Entry], source: ListedSource) -> None:
    """Raise DataError if two paths are stored under one: the same characters, composed (NFC) and decomposed."""
    paths: dict[str, str] = {}
    for path in sorted(entry.path for entry in entries if not entry.path.isascii()):
        other = paths.setdefault("/".join(map(stored_name, path.split("/"))), path)
        if other != path:
            raise DataError(f"{source.setting}: {source.name} contains {other!a} and {path!a}, which are the same "
                            "characters, composed and decomposed. Rename or remove one of them.")


class Folder:
    """A local folder. Links to files and folders are followed."""

    def __init__(self, path: str, setting: str = SETTING) -> None:
        self.setting = setting
        self.folder = expand_home(path, setting).absolute()
        self.name = str(self.folder)
        self._hint = f"; for a dataset on Kaggle write kaggle://{path}" if re.fullmatch(f"{SLUG}/{SLUG}", path) else ""

    def list_entries(self) -> Iterator[Entry | Skipped]:
        """Yield all files and empty folders, and what is skipped. The version is the time of the last change."""
        if self.folder.is_file() and self.folder.suffix.lower() in TABLE_SUFFIXES:
            raise DataError(f"{self.setting}: {self.name} is a table. Set the folder that contains the table and the "
                            "images; data.label_table names the table.")
        if self.folder.is_file():
            raise DataError(f"{self.setting}: {self.name} is a file, but not an archive that can be read: zip, tar, "
                            "tar.gz, tar.bz2, tar.xz, or 7z. Set such an archive or a folder.")
        if self.folder.is_symlink() and not self.folder.exists():
            raise DataError(f"{self.setting}: {self.name} is a link to {self.folder.readlink()}, which is missing. Set "
                            "a folder that this machine can read.")
        if not self.folder.is_dir():
            raise DataError(f"{self.setting}: the folder {self.name} is missing. Set a folder that this machine can "
                            f"read{self._hint}.")
        with name_setting(self.name, self.setting):
            yield from walk(self.folder)

    def read(self, entries: Iterable[Entry]) -> Generator[tuple[Entry, Path], None, None]:
        """Yield the path of each entry, and compare its size and time with the listing before and afterwards."""
        for entry in entries:
            path = self.folder / entry.path
            self._require_unchanged(path, entry)
            yield entry, path
            self._require_unchanged(path, entry)

    def fetch(self, entry: Entry, path: Path) -> Path:
        """Return the path of an entry, after comparing its size and time with the listing."""
        with name_setting(self.name, self.setting):
            file = self.folder / entry.path
            self._require_unchanged(file, entry)
            return file

    def _require_unchanged(self, path: Path, entry: Entry) -> None:
        status = path.stat()
        if (status.st_size, str(status.st_mtime_ns)) != (entry.num_bytes, entry.version):
            raise _changed_error(str(path), self.setting)


def _changed_error(path: str, setting: str) -> SourceChangedError:
    return SourceChangedError(f"{setting}: {path} was changed while it was read. Run download again while nobody "
                              "writes to this folder.")


class BucketPrefix:
    """The objects of a bucket below a prefix."""

    def __init__(self, url: str, setting: str = SETTING) -> None:
        self.name = url
        self.setting = setting
        with name_setting(url, setting):
            self.bucket = Bucket(url)

    def list_entries(self) -> Iterator[Entry]:
        """Yield all objects. The version is the ETag."""
        with name_setting(self.name, self.setting):
            for item in self.bucket.list_objects():
                yield Entry(item.path, item.num_bytes, item.version)

    def read(self, entries: Iterable[Entry]) -> Generator[tuple[Entry, Path], None, None]:
        """Download the entries in parallel, and yield them in their order."""
        pending: deque[tuple[Entry, Future[Path]]] = deque()
        named = name_setting(self.name, self.setting)
        with temporary_folder() as folder, ThreadPoolExecutor(NUM_THREADS) as pool, named:
            try:
                for number, entry in enumerate(entries):
                    pending.append((entry, pool.submit(self._download, entry, folder / str(number))))
                    if len(pending) >= MAX_PENDING:
                        yield from _take_first(pending)
                while pending:
                    yield from _take_first(pending)
            finally:
                pool.shutdown(cancel_futures=True)

    def fetch(self, entry: Entry, path: Path) -> Path:
        """Download an entry to the path and return the path."""
        with name_setting(self.name, self.setting):
            return self._download(entry, path)

    def _download(self, entry: Entry, path: Path) -> Path:
        self.bucket.fetch(BucketObject(*entry), path)
        return path


def _take_first(pending: deque[tuple[Entry, Future[Path]]]) -> Iterator[tuple[Entry, Path]]:
    entry, future = pending.popleft()
    path = future.result()
    yield entry, path
    path.unlink(missing_ok=True)  # the caller may have moved it


def open_listed(source: Source, setting: str = SETTING) -> Folder | BucketPrefix:
    """Return the folder or the bucket that a source names; errors name the setting."""
    return (BucketPrefix if source.kind == "bucket" else Folder)(source.name, setting)


@contextmanager
def name_setting(name: str, setting: str = SETTING) -> Iterator[None]:
    """Let the errors that occur while a source is read name its setting."""
    try:
        yield
    except FileNotFoundError as error:
        raise _changed_error(str(error.filename), setting) from error
    except PermissionError as error:
        raise unreadable_error(error, name, setting) from error
    except (ConfigError, ServiceError) as error:
        raise (error if setting in str(error) else type(error)(f"{setting}: {error}")) from error


def unreadable_error(error: OSError, name: str, setting: str = SETTING) -> DataError:
    """Return the error for a file of the source that this user may not read."""
    return DataError(f"{setting}: cannot read {error.filename or name}: {error.strerror}. Let this user read all "
                     "files of the source, or set another one.")
