"""What a source contains now, and what its last download read. No image is opened or downloaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from carclf.artifacts import Archive, fingerprint
from carclf.config.sources import Source
from carclf.dataset.archive_members import is_archive
from carclf.dataset.last_download import find_last_download, source_id
from carclf.dataset.layout import IMAGE_SUFFIXES
from carclf.dataset.listing import Listing, list_source, open_listed
from carclf.dataset.packs import LISTING
from carclf.dataset.source_files import ArchiveFile
from carclf.dataset.walk import Entry
from carclf.errors import DataError
from carclf.progress import log
from carclf.services.kaggle.client import KaggleClient
from carclf.services.kaggle.datasets import DatasetClient
from carclf.services.storage import Store


@dataclass(frozen=True)
class SourceContents:
    """A fingerprint of a source's contents, the number of images (None if unknown), and the version of a dataset.

    ``listing`` is that of a folder or bucket, otherwise None.
    """

    fingerprint: str
    num_images: int | None = None
    version: int | None = None
    listing: Listing | None = None


@dataclass(frozen=True)
class SourceStatus:
    """A source compared with the last download of a run.

    ``fingerprint`` is what it contains now, ``last_fingerprint`` what the last download read (empty: none is known).
    ``num_new_images`` are the images of a folder or bucket that are new or changed since; None for other sources, and
    if a new archive may contain any number. ``archive`` is the key of the last download's archive, or empty.
    """

    source: str
    changed: bool
    fingerprint: str
    last_fingerprint: str
    archive: str
    num_images: int | None
    num_new_images: int | None
    version: int | None


def source_status(source: Source, store: Store) -> SourceStatus:
    """Compare a source with the last download of a run. Those of an experiment or a re-evaluation do not count.

    Raises ServiceError, DataError or ConfigError if the source cannot be listed.
    """
    contents = read_contents(source)
    last = find_last_download(source, store, of_run=True)
    changed = last is None or last.contents != contents.fingerprint
    num_new_images = 0 if not changed else _count_new(contents, last.archive if last else None, store)
    return SourceStatus(source_id(source), changed, contents.fingerprint, last.contents if last else "",
                        last.archive.key if last else "", contents.num_images, num_new_images, contents.version)


def read_contents(source: Source) -> SourceContents:
    """List a source: a folder, a bucket (page by page), or what Kaggle reports about a competition or a dataset."""
    if source.kind == "competition":
        return competition_contents(KaggleClient(source.name).list_files())
    if source.kind == "dataset":
        kaggle = DatasetClient(source.name)
        version = kaggle.resolve(source.version)
        summaries = kaggle.list_extensions(version)
        num_images = sum(summary.num_files for summary in summaries if summary.extension in IMAGE_SUFFIXES)
        return SourceContents(version_fingerprint(version), num_images if summaries else None, version)
    if source.kind == "file":
        return SourceContents(file_fingerprint(ArchiveFile(source.name)))
    return listed_contents(list_source(open_listed(source)))


def competition_contents(files: Sequence[tuple[str, int, str]]) -> SourceContents:
    """Return the contents of a competition with these files: names, sizes in bytes and creation dates."""
    # Most competitions list one archive; the number of its images is unknown.
    num_images = sum(_is_image(name) for name, _, _ in files) or None
    return SourceContents(fingerprint(files=[list(file) for file in files]), num_images)


def version_fingerprint(version: int) -> str:
    """Return the fingerprint of a dataset's version."""
    return fingerprint(version=version)


def file_fingerprint(file: ArchiveFile) -> str:
    """Return a fingerprint of the names, sizes and times of an archive's volumes, which are not read."""
    try:
        statuses = [(path.name, status.st_size, status.st_mtime_ns)
                    for path, status in ((path, path.stat()) for path in file.paths)]
    except OSError as error:
        raise DataError(f"data.source: cannot read {error.filename}: {error.strerror}. Set an archive that this user "
                        "can read.") from error
    return fingerprint(volumes=statuses)


def listed_contents(listing: Listing) -> SourceContents:
    """Return the contents of a folder or bucket with this listing."""
    num_images = sum(_is_image(entry.path) for entry in listing.entries)
    content = fingerprint(files=listing.entries, folders=listing.folders)
    return SourceContents(content, num_images, listing=listing)


def _is_image(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES


def _count_new(contents: SourceContents, archive: Archive | None, store: Store) -> int | None:
    """Return the number of images that the archive does not have in this version; None if it is unknown."""
    if contents.listing is None:
        return None
    known = _packed_entries(archive, store) if archive else set()
    new = [entry for entry in contents.listing.entries if entry not in known]
    if any(is_archive(PurePosixPath(entry.path).name) for entry in new):
        return None
    return sum(_is_image(entry.path) for entry in new)


def _packed_entries(archive: Archive, store: Store) -> set[Entry]:
    try:
        table = archive.table(store, LISTING)
    except DataError as error:
        log.warning("source: the earlier listing is damaged, all images count as new reason=%s", error)
        return set()
    packed = table[table["pack"] != ""]
    return {Entry(*row) for row in packed[list(Entry._fields)].itertuples(index=False, name=None)}
