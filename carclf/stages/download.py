"""Fetch the competition's archive, once per version of it on Kaggle, and put the extra data beside it."""

from pathlib import Path

from carclf.artifacts import Archive, Metrics, Provenance, StageContext, build
from carclf.dataset.archives import pack
from carclf.dataset.extra_data import ExtraData, archive_content, gather_extra_data
from carclf.errors import ServiceError
from carclf.services.kaggle.client import KaggleClient
from carclf.services.storage import Store

VERSION = 1


def download(context: StageContext) -> tuple[Archive, bool]:
    """The verified archive and the packed extra data.

    Reused while Kaggle lists the same files, sizes and dates, and the extra data are the same to the byte.
    """
    config, store, _salt = context.config, context.store, context.salt
    with gather_extra_data(config.download.extra_data) as extra:  # a mistake in it is told before anything is fetched
        archive, reused = _competitions(context)
        return _with_extra(archive, extra, store) if extra.pictures else (archive, reused)


def _competitions(context: StageContext) -> tuple[Archive, bool]:
    config, store, salt = context.config, context.store, context.salt
    kaggle = KaggleClient(config.competition)

    def make(folder: Path) -> Metrics:
        path = kaggle.download(folder, timeout_seconds=config.download.timeout_seconds)
        path.rename(folder / "archive.zip")
        return {"num_bytes": (folder / "archive.zip").stat().st_size}

    listing = [list(file) for file in kaggle.list_files()]
    return build(Archive, make, Provenance(VERSION, {}, {"competition": config.competition, "listing": listing, "salt": salt}), store)


def _with_extra(archive: Archive, extra: ExtraData, store: Store) -> tuple[Archive, bool]:
    """The extra data as an archive of their own that names the competition's: a new picture fetches nothing again."""
    content = extra.content

    def make(folder: Path) -> Metrics:
        pack(folder / "extra.zip", extra.pictures)
        if archive_content(folder / "extra.zip") != content:
            raise ServiceError("download.extra_data: pictures changed while they were packed. Run download again, best "
                               "when nobody writes there.")
        return archive.metrics | {"num_extra": len(extra.pictures)}

    return build(Archive, make, Provenance(VERSION, {"archive": archive.key}, {"extra": content}), store, archive.files)
