"""Turn a folder in the competition's layout into a competition with an archive and graded submissions."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from carclf.dataset.layout import is_in_junk_folder, is_junk_file
from carclf.demo.archive import id_category_csv, write_competition_archive
from carclf.errors import ConfigError, DataError

COLUMNS = ["Id", "Category"]
HOLDOUT_SEED = 0


@dataclass(frozen=True)
class Competition:
    """A competition that the demo server serves.

    Attributes:
        slug: Its name in Kaggle's URLs.
        archive: The zip to download.
        ids: The ids of the sample submission in order.
        truth: The true class of each id, as a submission names it; None if unknown.
        metric: A key of METRICS, by which submissions are graded.
        evaluation_metric: Kaggle's text for it.
        columns: The header of the sample submission. With the kind "probabilities", all but the first are the classes.
        kind: What a submission contains: the class, the probability of the positive class, or one per class.
        positive_class: The class of the kind "positive", as in ``truth``.
        is_notebooks_only: Kaggle rejects submitted files.
        submissions_disabled: Kaggle rejects all submissions.
    """

    slug: str
    archive: Path
    ids: tuple[str, ...]
    truth: Mapping[str, str] | None
    metric: str = "accuracy"
    evaluation_metric: str = "Categorization Accuracy"
    columns: tuple[str, ...] = ("Id", "Category")
    kind: Literal["label", "positive", "probabilities"] = "label"
    positive_class: str = "1"
    is_notebooks_only: bool = False
    submissions_disabled: bool = False


@dataclass(frozen=True)
class ServedDataset:
    """A version of a dataset, and the zip to download; ``status`` is a name of DatabundleVersionStatus in the SDK."""

    owner: str
    slug: str
    version: int
    archive: Path
    status: str = "READY"


def open_competition(
    folder: Path, *, slug: str, work: Path, truth: Path | None = None, holdout: float | None = None
) -> Competition:
    """Build ``<slug>.zip`` in ``work`` from a folder in the competition's layout.

    Submissions are graded against the CSV ``truth``, or against the labels of a fraction ``holdout`` of the training
    images, which become the test images. Raise ConfigError for invalid arguments, DataError for invalid files.
    """
    if truth is not None and holdout is not None:
        raise ConfigError("A truth file and a holdout fraction were given. Give one of them, not both.")
    train = _training_images(folder)
    if holdout is None:
        test = _test_images(folder)
        ids = tuple(_read_csv(folder / "sample-submission.csv"))
        _require_images(folder, ids, test)
        labels = None if truth is None else _read_truth(ids, truth)
    else:
        labels = _hold_out(train, holdout)
        ids = tuple(labels)
        test = [path for path in train if path.name in labels]
        train = [path for path in train if path.name not in labels]
    archive = write_competition_archive(
        work / f"{slug}.zip", train=train, test=test, train_csv=id_category_csv(_train_rows(folder, train)),
        sample_csv=id_category_csv((name, "0") for name in ids),
    )
    return Competition(slug, archive, ids, labels)


def _list_files(folder: Path, pattern: str) -> list[Path]:
    files = (path for path in folder.glob(pattern) if path.is_file() and not is_junk_file(path.name))
    return sorted(path for path in files if not is_in_junk_folder(path.relative_to(folder).parts))


def _training_images(folder: Path) -> list[Path]:
    images = _list_files(folder, "train/*/*")
    if not images:
        raise DataError(f"{folder} has no train/<class number>/*.jpg. Give a folder in the competition's layout.")
    if unnumbered := next((path.parent for path in images if not path.parent.name.isdecimal()), None):
        raise DataError(f"{unnumbered} is not a class number; expected train/<class number>/*.jpg. Rename the folder "
                        "to its class number, or move it elsewhere.")
    return images


def _test_images(folder: Path) -> list[Path]:
    images = _list_files(folder, "test_upload/*")
    if not images:
        raise DataError(f"{folder} has no test_upload/*.jpg. Add the test images, or use a holdout of 0.2.")
    return images


def _read_csv(path: Path) -> dict[str, str]:
    """Return Id to Category; DataError if the file is missing or invalid."""
    if not path.is_file():
        raise DataError(f"{path} does not exist. Add this CSV with the columns Id,Category.")
    try:
        rows = [row for row in csv.reader(path.read_text(encoding="utf-8-sig").splitlines()) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a valid CSV ({error}). Expected the columns Id,Category.") from error
    header, *body = rows or [[]]
    if not body or header != COLUMNS or any(len(row) != len(COLUMNS) or not row[1].isdecimal() for row in body):
        raise DataError(f"{path} must have the columns Id,Category, at least one row, and class numbers as Category.")
    categories = {row[0]: row[1] for row in body}
    if num_repeated := len(body) - len(categories):
        raise DataError(f"{path} repeats {num_repeated} ids. Remove the repeated rows.")
    return categories


def _require_images(folder: Path, ids: Sequence[str], test: Sequence[Path]) -> None:
    if missing := set(ids) - {path.name for path in test}:
        raise DataError(f"{folder}/sample-submission.csv has {len(missing)} ids without an image in test_upload, the "
                        f"first {min(missing)!r}. Add the images or remove the rows.")


def _read_truth(ids: Sequence[str], path: Path) -> dict[str, str]:
    categories = _read_csv(path)
    if missing := set(ids) - set(categories):
        raise DataError(f"{path} lacks {len(missing)} of the sample's {len(ids)} ids, the first {min(missing)!r}. Add "
                        "them, or omit --truth.")
    return {name: categories[name] for name in ids}


def _train_rows(folder: Path, train: Sequence[Path]) -> list[tuple[str, str]]:
    """Return the rows of train.csv whose images are in the archive; without a train.csv, use the folders' names."""
    path = folder / "train.csv"
    if not path.is_file():
        return [(image.name, image.parent.name) for image in train]
    served = {image.name for image in train}
    return [row for row in _read_csv(path).items() if row[0] in served]


def _hold_out(train: Sequence[Path], fraction: float) -> dict[str, str]:
    """Return the file names and classes of a stratified fraction of the readable images, in random order."""
    if not 0 < fraction < 1:
        raise ConfigError(f"Invalid holdout {fraction}: expected a fraction between 0 and 1, for example 0.2.")
    if len({path.name for path in train}) < len(train):
        raise DataError("A file name occurs in two classes, so nothing can be held out. Rename one of the files.")
    rng = np.random.default_rng(HOLDOUT_SEED)
    held_out: list[Path] = []
    for label in sorted({path.parent.name for path in train}, key=int):
        images = [path for path in train if path.parent.name == label]
        held_out += _sample_readable(images, max(1, round(fraction * len(images))), rng)
    return {held_out[i].name: held_out[i].parent.name for i in rng.permutation(len(held_out))}


def _sample_readable(images: Sequence[Path], num_images: int, rng: np.random.Generator) -> list[Path]:
    shuffled = (images[i] for i in rng.permutation(len(images)))
    sample = [path for path, _ in zip(filter(_is_readable, shuffled), range(num_images), strict=False)]
    if not 0 < len(sample) < len(images):
        raise DataError(f"Class {images[0].parent.name} has {len(images)} files: too few to hold out {num_images} "
                        "readable images and train on the rest. Add images or lower the holdout.")
    return sample


def _is_readable(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):  # Pillow raises these for broken files
        return False
    return True
