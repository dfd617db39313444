"""Fetch the competition's archive, once per version of it on Kaggle, and the extra data beside it."""

from pathlib import Path
from typing import Any

from carclf.artifacts import Archive, Figures, build
from carclf.config import Config
from carclf.data.archives import pack
from carclf.data.extra import ExtraData, gathered
from carclf.services.kaggle import Kaggle
from carclf.services.storage import Store

VERSION = 1


def download(config: Config, store: Store, *, salt: str = "") -> tuple[Archive, bool]:
    """The verified archive and the packed extra data.

    Reused while Kaggle lists the same files, sizes and dates, and the extra data are the same to the byte.
    """
    kaggle = Kaggle(config.competition)
    listing = [list(file) for file in kaggle.listing()]
    with gathered(config.download.extra_data) as extra:
        settings: dict[str, Any] = {"competition": config.competition, "listing": listing, "salt": salt}
        if extra.pictures:
            settings["extra"] = extra.content

        def make(folder: Path) -> Figures:
            path = kaggle.download(folder, timeout_seconds=config.download.timeout_seconds)
            path.rename(folder / "archive.zip")
            return {"num_bytes": (folder / "archive.zip").stat().st_size} | _packed(extra, folder)

        return build(Archive, make, store=store, version=VERSION, inputs={}, settings=settings)


def _packed(extra: ExtraData, folder: Path) -> Figures:
    if not extra.pictures:
        return {}
    pack(folder / "extra.zip", extra.pictures)
    return {"num_extra": len(extra.pictures)}
