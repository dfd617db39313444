"""Download the competition's archive, once per version on Kaggle, and add the extra data."""

from collections.abc import Mapping
from pathlib import Path

from carclf.artifacts import Archive, Metrics, Provenance, StageContext, build
from carclf.dataset.archives import pack
from carclf.dataset.extra_data import archive_content, gather_extra_data, images_content
from carclf.errors import ServiceError
from carclf.progress import log
from carclf.services.kaggle.client import KaggleClient
from carclf.services.storage import Store

VERSION = 2


def download(context: StageContext) -> tuple[Archive, bool]:
    """Return the verified archive with the extra data packed next to it, and whether it was reused.

    It is reused while Kaggle lists the same files, sizes and dates and the extra data have the same bytes. Raise
    DataError before the download if download.extra_data does not name folders of images.
    """
    with gather_extra_data(context.config.download.extra_data) as images:
        archive, reused = _competition_archive(context)
        return _add_extra_data(archive, images, context.store) if images else (archive, reused)


def _competition_archive(context: StageContext) -> tuple[Archive, bool]:
    config = context.config
    kaggle = KaggleClient(config.competition)

    def make(folder: Path) -> Metrics:
        path = kaggle.download(folder, timeout_seconds=config.download.timeout_seconds)
        path.rename(folder / "archive.zip")
        metrics: Metrics = {"num_bytes": (folder / "archive.zip").stat().st_size}
        return metrics | {"evaluation_metric": details.evaluation_metric,
                          "submission_obstacle": details.submission_obstacle}

    details = kaggle.details()
    if details.submission_obstacle:
        log.warning("download: no submission: %s; the run ends with promote", details.submission_obstacle)
    listing = [list(file) for file in kaggle.list_files()]
    settings = {"competition": config.competition, "listing": listing, "salt": context.salt}
    return build(Archive, make, Provenance(VERSION, {}, settings), context.store)


def _add_extra_data(archive: Archive, images: Mapping[str, Path], store: Store) -> tuple[Archive, bool]:
    """Build an archive that shares the competition's ``archive.zip``, so that new extra data repeat no download."""
    content = images_content(images)

    def make(folder: Path) -> Metrics:
        pack(folder / "extra.zip", images)
        if archive_content(folder / "extra.zip") != content:
            raise ServiceError("download.extra_data: images changed while they were packed. Run download again while "
                               "nobody writes to these folders.")
        return archive.metrics | {"num_extra": len(images)}

    provenance = Provenance(VERSION, {"archive": archive.key}, {"extra": content})
    return build(Archive, make, provenance, store, archive.files)
