"""Download the source's files, only new and changed ones if it lists them, and add the extra data."""

from collections.abc import Callable, Mapping
from pathlib import Path

from carclf.artifacts import Archive, Metrics, Provenance, StageContext, build, fingerprint, is_rebuilding
from carclf.config.sources import Source, require_source
from carclf.dataset.archives import pack
from carclf.dataset.detection.rejections import reject_extensions, reject_listing
from carclf.dataset.extra_data import archive_content, gather_extra_data, images_content
from carclf.dataset.last_download import LastDownload, find_last_download, remember_download
from carclf.dataset.listing import list_source, open_listed
from carclf.dataset.packs import plan_packs, write_packs
from carclf.dataset.source_files import ArchiveFile
from carclf.dataset.source_status import (
    competition_contents,
    file_fingerprint,
    listed_contents,
    version_fingerprint,
)
from carclf.errors import ServiceError
from carclf.progress import log
from carclf.services.kaggle.client import KaggleClient
from carclf.services.kaggle.datasets import DatasetClient
from carclf.services.storage import Store
from carclf.temporary import temporary_folder

VERSION = 3


def download(context: StageContext, *, of_run: bool = True) -> tuple[Archive, bool]:
    """Return the archive of ``data.source`` with the extra data packed next to it, and whether it was reused.

    It is reused while Kaggle lists the same files (names, sizes and dates, or the version of a dataset), or while the
    files of a folder or bucket (paths and bytes), the archive file and the extra data (bytes) are the same. Raise
    DataError before the download if download.extra_data does not name folders of images. Only the download ``of_run``
    counts for ``carclf source status``: no run trains on the images of the others.
    """
    source = require_source(context.config.data.source)
    with gather_extra_data(context.config.download.extra_data) as images:
        result, reused = _DOWNLOADS[source.kind](source, context)
        remember_download(source, result, context.store, of_run=of_run)
        return _add_extra_data(result.archive, images, context.store) if images else (result.archive, reused)


def _competition_archive(source: Source, context: StageContext) -> tuple[LastDownload, bool]:
    kaggle = KaggleClient(source.name)

    def make(folder: Path) -> Metrics:
        path = kaggle.download(folder, timeout_seconds=context.config.download.timeout_seconds)
        path.rename(folder / "archive.zip")
        return {"num_bytes": (folder / "archive.zip").stat().st_size, "evaluation_metric": details.evaluation_metric}

    details = kaggle.details()
    if details.submission_obstacle:
        log.warning("download: no submission: %s; the run ends with promote", details.submission_obstacle)
    files = kaggle.list_files()
    reject_listing((name, num_bytes) for name, num_bytes, _ in files)
    listing = [list(file) for file in files]
    settings = {"competition": source.name, "listing": listing, "salt": context.salt}
    archive, reused = build(Archive, make, Provenance(VERSION, {}, settings), context.store)
    return LastDownload(archive, competition_contents(files).fingerprint), reused


def _dataset_archive(source: Source, context: StageContext) -> tuple[LastDownload, bool]:
    kaggle = DatasetClient(source.name)
    version = kaggle.resolve(source.version)
    reject_extensions((summary.extension, summary.num_bytes) for summary in kaggle.list_extensions(version))

    def make(folder: Path) -> Metrics:
        path = kaggle.download(version, folder, timeout_seconds=context.config.download.timeout_seconds)
        path.rename(folder / "archive.zip")
        return {"num_bytes": (folder / "archive.zip").stat().st_size, "version": version}

    settings = {"dataset": source.name, "version": version, "salt": context.salt}
    archive, reused = build(Archive, make, Provenance(VERSION, {}, settings), context.store)
    return LastDownload(archive, version_fingerprint(version)), reused


def _file_archive(source: Source, context: StageContext) -> tuple[LastDownload, bool]:
    file = ArchiveFile(source.name)
    contents = file_fingerprint(file)
    sha256 = file.sha256()

    def make(folder: Path) -> Metrics:
        target = folder / f"archive{file.suffix}"
        file.copy(target, sha256)
        return {"num_bytes": target.stat().st_size}

    settings = {"file": sha256, "suffix": file.suffix, "salt": context.salt}
    archive, reused = build(Archive, make, Provenance(VERSION, {}, settings), context.store)
    return LastDownload(archive, contents), reused


def _packed_archive(source: Source, context: StageContext) -> tuple[LastDownload, bool]:
    """Build an archive that shares the packs of the source's previous archive, and is identified by its content.

    Nothing is read while the source lists the same files. A copy, or files with new times, give the same archive.
    """
    listed = open_listed(source)
    files = list_source(listed)
    for path, reason in files.ignored.items():
        if reason:
            log.warning("download: ignored path=%s: %s", path, reason)
    state = fingerprint(version=VERSION, files=files.entries, folders=files.folders, salt=context.salt)
    contents = listed_contents(files).fingerprint
    last = find_last_download(source, context.store)
    if last and last.state == state and not is_rebuilding():
        return LastDownload(last.archive, contents, state), True
    # A forced or repaired archive repeats everything: the earlier packs may be the reason.
    is_new = bool(context.salt) or is_rebuilding()
    plan = plan_packs(files, last.archive if last and not is_new else None, context.store)
    with temporary_folder() as work:
        packed = write_packs(listed, files, plan, work)

        def make(folder: Path) -> Metrics:
            for path in work.iterdir():
                path.rename(folder / path.name)
            return packed.metrics

        settings = {"files": packed.fingerprint, "salt": context.salt}
        archive, reused = build(Archive, make, Provenance(VERSION, {}, settings), context.store, plan.packs)
    return LastDownload(archive, contents, state), reused


_DOWNLOADS: Mapping[str, Callable[[Source, StageContext], tuple[LastDownload, bool]]] = {
    "competition": _competition_archive, "dataset": _dataset_archive, "file": _file_archive,
    "folder": _packed_archive, "bucket": _packed_archive,
}


def _add_extra_data(archive: Archive, images: Mapping[str, Path], store: Store) -> tuple[Archive, bool]:
    """Build an archive that shares the source's files, so that new extra data repeat no download."""
    content = images_content(images)

    def make(folder: Path) -> Metrics:
        pack(folder / "extra.zip", images)
        if archive_content(folder / "extra.zip") != content:
            raise ServiceError("download.extra_data: images changed while they were packed. Run download again while "
                               "nobody writes to these folders.")
        return archive.metrics | {"num_extra": len(images)}

    provenance = Provenance(VERSION, {"archive": archive.key}, {"extra": content})
    return build(Archive, make, provenance, store, archive.files)
