"""The archive of a competition whose test images are held out; equal files produce equal bytes."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from carclf.dataset.archives import write_archive
from carclf.temporary import temporary_folder


@dataclass(frozen=True)
class HoldoutArchive:
    """Training and test images below the folder ``files``: rows of a Layout, with the path as index.

    ``columns`` are those of a submission after the id: one for the class, or one per class.
    """

    files: Path
    train: pd.DataFrame
    test: pd.DataFrame
    columns: tuple[str, ...]


def stored_id(image_id: str) -> str:
    """Return the name of an image in the archive, which has no folders."""
    return image_id.replace("/", "_")


def write_holdout_archive(path: Path, content: HoldoutArchive) -> Path:
    """Write ``train.csv``, ``sample-submission.csv``, ``train.zip`` and ``test.zip``, atomically; return the path."""
    with temporary_folder(path.parent) as folder:
        _train_table(content.train).to_csv(folder / "train.csv", index=False, lineterminator="\n")
        sample = pd.DataFrame({"Id": content.test["id"].map(stored_id)})
        first = content.train["label"].iloc[0]
        for column in content.columns:
            sample[column] = first if len(content.columns) == 1 else round(1 / len(content.columns), 6)
        sample.to_csv(folder / "sample-submission.csv", index=False, lineterminator="\n")
        for name, top, rows in (("train", "train", content.train), ("test", "test_upload", content.test)):
            names = [f"{top}/{stored_id(image_id)}" for image_id in rows["id"]]
            images = dict(zip(names, map(content.files.joinpath, rows.index), strict=True))
            write_archive(folder / f"{name}.zip", images)
        members = ("sample-submission.csv", "train.csv", "train.zip", "test.zip")
        write_archive(folder / "archive.zip", {member: folder / member for member in members})
        return (folder / "archive.zip").replace(path)


def _train_table(train: pd.DataFrame) -> pd.DataFrame:
    """Return the label table; it has the column ``group`` if there are groups."""
    table = pd.DataFrame({"Id": train["id"].map(stored_id), "Category": train["label"]})
    return table.assign(group=train["group"]) if train["group"].any() else table
