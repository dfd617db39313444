"""Pseudo-labels: images that a model is sure of, copied into class folders as extra data for a training."""

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import pandas as pd

from carclf.dataset.listing import ListedSource, list_source
from carclf.dataset.walk import Entry
from carclf.errors import ConfigError, DataError, SourceChangedError
from carclf.progress import log
from carclf.temporary import temporary_folder

NUM_THREADS = 10  # that copy images; a bucket's latency limits each


def copy_confident(
    rows: pd.DataFrame, source: ListedSource, folder: Path, min_probability: float
) -> "pd.Series[int]":
    """Copy each image whose class has at least this probability to ``folder/<class>``; return how many per class.

    ``rows`` are predictions of ``read_predictions``. Images that were changed or removed since then are left out. The
    folder is created when all images are copied. Raise ConfigError if it exists or a class cannot be a folder, and
    DataError if no image is confident.
    """
    if folder.exists():
        raise ConfigError(f"{folder} exists. Choose a new folder, since labels of another model may be in it.")
    confident = rows[(rows["problem"] == "") & (rows["probability"] >= min_probability)]
    for name in confident["class"].unique():
        if "/" in name or name.startswith("."):
            raise ConfigError(f"The class {name!r} cannot be the name of a folder. Rename it with data.class_names.")
    classes = dict(zip(zip(confident["id"], confident["version"], strict=True), confident["class"], strict=True))
    images = [(entry, classes[entry.path, entry.version]) for entry in list_source(source).entries
              if (entry.path, entry.version) in classes]
    with temporary_folder(folder.parent) as work:

        def copy(image: tuple[Entry, str]) -> str:
            entry, label = image
            target = work / "labels" / label / _file_name(entry.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                path = source.fetch(entry, target)
            except SourceChangedError as error:
                log.warning("predictions: left out path=%s: %s", entry.path, error)
                return ""
            if path != target:
                shutil.copyfile(path, target)
            return label

        with ThreadPoolExecutor(NUM_THREADS) as pool:
            labels = pd.Series(list(pool.map(copy, images)), dtype="object")
        if not (labels != "").any():
            raise DataError(f"No image of {source.name} has a class with a probability of at least "
                            f"{min_probability:g}. Lower --min-probability, or predict its images first: carclf "
                            "predictions run")
        (work / "labels").rename(folder)
    return labels[labels != ""].value_counts().sort_index()


def _file_name(path: str) -> str:
    """Return a name that no other path has: images of different folders may have the same name."""
    name = PurePosixPath(path)
    return f"{name.stem[:100]}-{hashlib.sha256(path.encode()).hexdigest()[:12]}{name.suffix}"
