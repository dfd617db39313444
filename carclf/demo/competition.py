"""A folder in the competition's layout as a competition: what is served, and what it is graded against."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from carclf.demo.archive import id_category_csv, write_archive
from carclf.demo.grading import COLUMNS, grade_submission
from carclf.errors import ConfigError, DataError


@dataclass(frozen=True)
class Competition:
    """What the server serves: the archive, the ids of the sample in order, and the truth where it is known."""

    slug: str
    archive: Path
    ids: tuple[str, ...]
    truth: Mapping[str, str] | None


def open_competition(
    folder: Path, *, slug: str, work: Path, truth: Path | None = None, holdout: float | None = None, seed: int = 0
) -> Competition:
    """Build ``<slug>.zip`` in ``work``; DataError or ConfigError where the folder or the arguments are wrong."""
    if truth is not None and holdout is not None:
        raise ConfigError("A truth file and a holdout share were given. Give one of them, not both.")
    train = _training_files(folder)
    if holdout is None:
        test, answers = _uploaded(folder), None
        ids = tuple(_read_csv(folder / "sample-submission.csv"))
        _require_pictures(folder, ids, test)
        if truth is not None:
            answers = _truth_for(ids, truth)
    else:
        answers = _hold_out(train, holdout, seed)
        ids, test = tuple(answers), [path for path in train if path.name in answers]
        train = [path for path in train if path.name not in answers]
    archive = write_archive(
        work / f"{slug}.zip",
        train=train,
        test=test,
        train_csv=id_category_csv(_train_rows(folder, train)),
        sample_csv=id_category_csv((name, "0") for name in ids),
    )
    return Competition(slug, archive, ids, answers)


def grade(competition: Competition, data: bytes) -> tuple[str, str]:
    """The public score, cut to 5 digits ("" without a truth), and what is wrong with the file ("" if nothing)."""
    return grade_submission(competition.ids, competition.truth, data)


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file() and not path.name.startswith("."))


def _training_files(folder: Path) -> list[Path]:
    found = [path for path in _files(folder, "train/*/*") if not path.parent.name.startswith(".")]
    if not found:
        raise DataError(f"{folder} has no train/<class number>/*.jpg. Give a folder in the competition's layout.")
    if unnumbered := next((path.parent for path in found if not path.parent.name.isdecimal()), None):
        raise DataError(f"{unnumbered} is no class number, as train/<class number>/*.jpg needs. Rename the folder to "
                        "its class's number, or move it elsewhere.")
    return found


def _uploaded(folder: Path) -> list[Path]:
    found = _files(folder, "test_upload/*")
    if not found:
        raise DataError(f"{folder} has no test_upload/*.jpg. Add the test images, or take a holdout of 0.2.")
    return found


def _read_csv(path: Path) -> dict[str, str]:
    """Id to Category; DataError where the file is missing or is not of that form."""
    if not path.is_file():
        raise DataError(f"There is no {path}. Add this CSV with the columns Id,Category.")
    try:
        rows = [row for row in csv.reader(path.read_text(encoding="utf-8-sig").splitlines()) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV ({error}). It must have the columns Id,Category.") from error
    if len(rows) < 2 or rows[0] != COLUMNS or any(len(row) != 2 or not row[1].isdecimal() for row in rows[1:]):
        raise DataError(f"{path} must have the columns Id,Category, at least one row, and class numbers as Category.")
    table_of_ids = {row[0]: row[1] for row in rows[1:]}
    if len(table_of_ids) < len(rows) - 1:
        raise DataError(f"{path} names {len(rows) - 1 - len(table_of_ids)} ids twice. Remove the second ones.")
    return table_of_ids


def _require_pictures(folder: Path, ids: Sequence[str], test: Sequence[Path]) -> None:
    if missing := set(ids) - {path.name for path in test}:
        raise DataError(
            f"{folder}/sample-submission.csv names {len(missing)} ids without a picture in test_upload, the first "
            f"{min(missing)!r}. Add the pictures or remove the rows."
        )


def _truth_for(ids: Sequence[str], path: Path) -> dict[str, str]:
    answers = _read_csv(path)
    if missing := set(ids) - set(answers):
        raise DataError(
            f"{path} lacks {len(missing)} of the sample's {len(ids)} ids, the first {min(missing)!r}. "
            f"Add them, or serve without a truth."
        )
    return {name: answers[name] for name in ids}


def _train_rows(folder: Path, train: Sequence[Path]) -> list[tuple[str, str]]:
    """The rows of the folder's own train.csv that are still served, or rows made from the folders' names."""
    path = folder / "train.csv"
    if not path.is_file():
        return [(item.name, item.parent.name) for item in train]
    served = {item.name for item in train}
    return [row for row in _read_csv(path).items() if row[0] in served]


def _hold_out(train: Sequence[Path], share: float, seed: int) -> dict[str, str]:
    """A stratified share of the readable labelled pictures, in random order: name to class."""
    if not 0 < share < 1:
        raise ConfigError(f"The holdout share is {share}; it must lie between 0 and 1, for example 0.2.")
    if len({path.name for path in train}) < len(train):
        raise DataError("A file name occurs in two classes, so nothing can be held out. Rename one of the files.")
    rng = np.random.default_rng(seed)
    held: list[Path] = []
    for label in sorted({path.parent.name for path in train}, key=int):
        members = [path for path in train if path.parent.name == label]
        held += _sample_readable(members, max(1, round(share * len(members))), rng)
    return {held[i].name: held[i].parent.name for i in rng.permutation(len(held))}


def _sample_readable(members: Sequence[Path], num_wanted: int, rng: np.random.Generator) -> list[Path]:
    shuffled = (members[i] for i in rng.permutation(len(members)))
    chosen = [path for path, _ in zip((p for p in shuffled if _readable(p)), range(num_wanted), strict=False)]
    if not 0 < len(chosen) < len(members):
        raise DataError(
            f"Class {members[0].parent.name} has {len(members)} files: too few to hold out {num_wanted} readable ones "
            f"and train on the rest. Add images or lower the holdout."
        )
    return chosen


def _readable(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):  # all that Pillow raises for broken files
        return False
    return True
