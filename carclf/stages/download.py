"""Fetch the competition's archive, once per version of it on Kaggle."""

from pathlib import Path

from carclf.artifacts import Archive, Figures, build
from carclf.config import Config
from carclf.services.kaggle import Kaggle
from carclf.services.storage import Store

VERSION = 1


def download(config: Config, store: Store, *, salt: str = "") -> tuple[Archive, bool]:
    """The verified archive; reused while Kaggle lists the same files, sizes and dates."""
    kaggle = Kaggle(config.competition)
    listing = [list(file) for file in kaggle.listing()]

    def make(folder: Path) -> Figures:
        path = kaggle.download(folder, timeout_seconds=config.download.timeout_seconds)
        path.rename(folder / "archive.zip")
        return {"num_bytes": (folder / "archive.zip").stat().st_size}

    settings = {"competition": config.competition, "listing": listing, "salt": salt}
    return build(Archive, make, store=store, version=VERSION, inputs={}, settings=settings)
