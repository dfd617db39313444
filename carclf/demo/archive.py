"""The competition's archive in Kaggle's layout; equal files produce equal bytes."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from carclf.dataset.archives import write_archive
from carclf.temporary import temporary_folder


def id_category_csv(rows: Iterable[tuple[str, str]]) -> bytes:
    """Return the rows as a CSV with the columns Id,Category."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["Id", "Category"])
    writer.writerows(rows)
    return text.getvalue().encode()


def write_competition_archive(
    path: Path, *, train: Sequence[Path], test: Sequence[Path], train_csv: bytes, sample_csv: bytes
) -> Path:
    """Write the archive, atomically, and return its path."""
    with temporary_folder(path.parent) as folder:
        (folder / "sample-submission.csv").write_bytes(sample_csv)
        (folder / "train.csv").write_bytes(train_csv)
        write_archive(folder / "train.zip", {f"train/{image.parent.name}/{image.name}": image for image in train})
        write_archive(folder / "test.zip", {f"test_upload/{image.name}": image for image in test})
        members = ("sample-submission.csv", "train.csv", "train.zip", "test.zip")
        write_archive(folder / "archive.zip", {member: folder / member for member in members})
        return (folder / "archive.zip").replace(path)
