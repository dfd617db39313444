"""A folder in the competition's layout as a competition: its archive, and how it grades."""

import csv
import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from carclf.errors import ConfigError, DataError

EPOCH = (2020, 1, 1, 0, 0, 0)  # a fixed time, so that the same folder gives the same archive


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
    """Build the archive in ``work``; DataError or ConfigError where the folder or the arguments are wrong."""
    train = sorted((folder / "train").glob("*/*"))
    if not train:
        raise DataError(f"{folder} has no train/<class number>/*.jpg. Give a folder in the competition's layout.")
    if truth is not None and holdout is not None:
        raise ConfigError("Give a truth file or a holdout share, not both.")
    if holdout is not None:
        answers = _hold_out(train, holdout, seed)
        ids, test = tuple(answers), [path for path in train if path.name in answers]
        train = [path for path in train if path.name not in answers]
    else:
        ids = tuple(_read_csv(folder / "sample-submission.csv"))
        answers = _read_csv(truth) if truth else {}
        test = sorted((folder / "test_upload").glob("*"))
    if answers and (missing := set(ids) - set(answers)):
        raise DataError(f"{truth} lacks {len(missing)} ids of the sample, the first {min(missing)!r}.")
    archive = _write_archive(work / f"{slug}.zip", train, test, ids)
    return Competition(slug, archive, ids, answers or None)


def _read_csv(path: Path) -> dict[str, str]:
    """Id to Category; DataError where the file is missing or is not of that form."""
    if not path.is_file():
        raise DataError(f"There is no {path}; a CSV with the columns Id,Category is needed.")
    rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    if not rows or rows[0] != ["Id", "Category"] or any(len(row) != 2 for row in rows):
        raise DataError(f"{path} must have the columns Id,Category.")
    return {row[0]: row[1] for row in rows[1:]}


def _hold_out(train: list[Path], share: float, seed: int) -> dict[str, str]:
    """A stratified share of the labelled pictures, in random order: name to class."""
    if not 0 < share < 1:
        raise ConfigError(f"The holdout share is {share}; it must lie between 0 and 1, for example 0.2.")
    rng = np.random.default_rng(seed)
    held: list[Path] = []
    for label in sorted({path.parent.name for path in train}):
        members = [path for path in train if path.parent.name == label]
        held += [members[i] for i in rng.permutation(len(members))[: max(1, round(share * len(members)))]]
    return {held[i].name: held[i].parent.name for i in rng.permutation(len(held))}


def _table(rows: Iterable[tuple[str, str]]) -> bytes:
    return "".join(["Id,Category\n", *(f"{name},{label}\n" for name, label in rows)]).encode()


def _write_archive(path: Path, train: list[Path], test: list[Path], ids: tuple[str, ...]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        _add(archive, "sample-submission.csv", _table((name, "0") for name in ids))
        _add(archive, "train.csv", _table((item.name, item.parent.name) for item in train))
        for name, members in {
            "train.zip": {f"train/{item.parent.name}/{item.name}": item for item in train},
            "test.zip": {f"test_upload/{item.name}": item for item in test},
        }.items():
            inner = io.BytesIO()
            with zipfile.ZipFile(inner, "w") as pictures:
                for member, source in members.items():
                    _add(pictures, member, source.read_bytes())
            _add(archive, name, inner.getvalue())
    return path


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, EPOCH), data)


def grade(competition: Competition, data: bytes) -> tuple[str, str]:
    """The public score, cut to 5 digits ("" without a truth), and what is wrong with the file ("" if nothing)."""
    try:
        rows = list(csv.reader(data.decode("utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        return "", f"The file is no CSV: {error}"
    if not rows or rows[0] != ["Id", "Category"]:
        return "", "The columns must be Id,Category"
    answers = {row[0]: row[1] for row in rows[1:] if len(row) == 2}
    if len(rows) - 1 != len(competition.ids) or set(answers) != set(competition.ids):
        return "", f"The file has {len(rows) - 1} rows; exactly the sample's {len(competition.ids)} ids are expected"
    if competition.truth is None:
        return "", ""
    correct = sum(answers[name] == competition.truth[name] for name in competition.ids)
    return f"{correct * 100_000 // len(competition.ids) / 100_000:.5f}", ""
