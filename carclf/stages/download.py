"""Download the source's files, only new and changed ones if it lists them, and add the extra data."""

from collections.abc import Callable, Mapping
from pathlib import Path

from carclf.artifacts import Archive, Metrics, Provenance, StageContext, build, fingerprint, is_rebuilding
from carclf.config.sources import Source, require_source
from carclf.dataset.archives import pack
from carclf.dataset.detection.rejections import reject_extensions, reject_listing
from carclf.dataset.extra_data import archive_content, gather_extra_data, images_content
from carclf.dataset.listing import list_source, open_listed
from carclf.dataset.packs import find_previous, plan_packs, remember, write_packs
from carclf.dataset.source_files import ArchiveFile
from carclf.errors import ServiceError
from carclf.progress import log
from carclf.services.kaggle.client import KaggleClient
from carclf.services.kaggle.datasets import DatasetClient
from carclf.services.storage import Store
from carclf.temporary import temporary_folder

VERSION = 3


def download(context: StageContext) -> tuple[Archive, bool]:
    """Return the archive of ``data.source`` with the extra data packed next to it, and whether it was reused.

    It is reused while Kaggle lists the same files (names, sizes and dates, or the version of a dataset), or while the
    files of a folder or bucket (paths and bytes), the archive file and the extra data (bytes) are the same. Raise
    DataError before the download if download.extra_data does not name folders of images.
    """
    source = require_source(context.config.data.source)
    with gather_extra_data(context.config.download.extra_data) as images:
        archive, reused = _DOWNLOADS[source.kind](source, context)
        return _add_extra_data(archive, images, context.store) if images else (archive, reused)


def _competition_archive(source: Source, context: StageContext) -> tuple[Archive, bool]:
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
    return build(Archive, make, Provenance(VERSION, {}, settings), context.store)


def _dataset_archive(source: Source, context: StageContext) -> tuple[Archive, bool]:
    kaggle = DatasetClient(source.name)
    version = kaggle.resolve(source.version)
    reject_extensions((summary.extension, summary.num_bytes) for summary in kaggle.list_extensions(version))

    def make(folder: Path) -> Metrics:
        path = kaggle.download(version, folder, timeout_seconds=context.config.download.timeout_seconds)
        path.rename(folder / "archive.zip")
        return {"num_bytes": (folder / "archive.zip").stat().st_size, "version": version}

    settings = {"dataset": source.name, "version": version, "salt": context.salt}
    return build(Archive, make, Provenance(VERSION, {}, settings), context.store)


def _file_archive(source: Source, context: StageContext) -> tuple[Archive, bool]:
    file = ArchiveFile(source.name)
    sha256 = file.sha256()

    def make(folder: Path) -> Metrics:
        target = folder / f"archive{file.suffix}"
        file.copy(target, sha256)
        return {"num_bytes": target.stat().st_size}

    settings = {"file": sha256, "suffix": file.suffix, "salt": context.salt}
    return build(Archive, make, Provenance(VERSION, {}, settings), context.store)


def _packed_archive(source: Source, context: StageContext) -> tuple[Archive, bool]:
    """Build an archive that shares the packs of the source's previous archive, and is identified by its content.

    Nothing is read while the source lists the same files. A copy, or files with new times, give the same archive.
    """
    listed = open_listed(source)
    files = list_source(listed)
    for path, reason in files.ignored.items():
        if reason:
            log.warning("download: ignored path=%s: %s", path, reason)
    state = fingerprint(version=VERSION, files=files.entries, folders=files.folders, salt=context.salt)
    previous, previous_state = find_previous(listed, context.store)
    if previous and previous_state == state and not is_rebuilding():
        return previous, True
    # A forced or repaired archive repeats everything: the earlier packs may be the reason.
    is_new = bool(context.salt) or is_rebuilding()
    plan = plan_packs(files, None if is_new else previous, context.store)
    with temporary_folder() as work:
        packed = write_packs(listed, files, plan, work)

        def make(folder: Path) -> Metrics:
            for path in work.iterdir():
                path.rename(folder / path.name)
            return packed.metrics

        settings = {"files": packed.fingerprint, "salt": context.salt}
        archive, reused = build(Archive, make, Provenance(VERSION, {}, settings), context.store, plan.packs)
    remember(listed, archive, state, context.store)
    return archive, reused


_DOWNLOADS: Mapping[str, Callable[[Source, StageContext], tuple[Archive, bool]]] = {
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
