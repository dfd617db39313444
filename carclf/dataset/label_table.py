"""The competition's two tables: the sample submission, and what class train.csv says each picture has."""

import csv
from pathlib import Path

import pandas as pd

from carclf.errors import DataError


def read_sample_submission(folder: Path) -> pd.DataFrame:
    """The sample submission, columns Id and Category, in its own order."""
    path = folder / "sample-submission.csv"
    if not path.exists():
        raise DataError("The archive holds no sample-submission.csv. Is this the right competition?")
    try:
        sample = _read(path)
    except (ValueError, csv.Error) as error:  # empty, not UTF-8, or no table
        raise DataError(f"sample-submission.csv cannot be read: {error}. Expected Id,Category.") from error
    if list(sample.columns) != ["Id", "Category"] or sample["Id"].duplicated().any() or sample.empty:
        raise DataError(f"sample-submission.csv has {len(sample)} rows, the columns {list(sample.columns)}, or an Id "
                        "twice; expected Id,Category with at least one row and each Id once.")
    return sample


def read_train_csv(folder: Path) -> pd.DataFrame | str | None:
    """train.csv as Id (str) and Category (int); why it is of no use; None where there is none.

    The folders say the classes: the table only checks them, so a bad one stops nothing.
    """
    path = folder / "train.csv"
    if not path.exists():
        return None
    try:
        table = _read(path)
    except (ValueError, csv.Error) as error:
        return f"train.csv cannot be read: {error}. Its classes were not compared with the folders'."
    if list(table.columns) != ["Id", "Category"] or not table["Category"].str.fullmatch("[0-9]{1,9}").all():
        return (f"train.csv has the columns {list(table.columns)} or a class that is no number; expected Id,Category. "
                "Its classes were not compared with the folders'.")
    if table.empty:
        return "train.csv has no rows. Its classes were not compared with the folders'."
    return table.assign(Category=table["Category"].astype(int))


def _read(path: Path) -> pd.DataFrame:
    """All values as they are written; ValueError or csv.Error for what is no table."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, strict=True)
        rows = [(lines.line_num, row) for row in lines if row]
    if not rows:
        raise ValueError("it is empty")
    (_, header), *values = rows
    # pandas itself would take the first of too many values for the row's name, and the others for their left neighbours
    for number, row in values:
        if len(row) != len(header):
            raise ValueError(f"line {number} has {len(row)} values, its header {len(header)}")
    return pd.DataFrame([row for _, row in values], columns=header, dtype=str)
