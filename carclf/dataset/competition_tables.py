"""The competition's tables: ``sample-submission.csv`` with the test ids, and ``train.csv`` with the classes."""

import csv
from pathlib import Path

import pandas as pd

from carclf.errors import DataError

COLUMNS = ["Id", "Category"]


def read_sample_submission(folder: Path) -> pd.DataFrame:
    """Return the sample submission: the columns Id and Category as text, in the order of the file.

    Raises DataError if the file is missing, is not a valid table, is empty, or has duplicate ids.
    """
    path = folder / "sample-submission.csv"
    if not path.exists():
        raise DataError("The archive contains no sample-submission.csv. Is this the right competition?")
    table = _read(path)
    if table.empty or table["Id"].duplicated().any():
        raise DataError("sample-submission.csv is empty or has duplicate ids. It must have each Id exactly once. Is "
                        "this the right competition?")
    return table


def read_train_csv(folder: Path) -> pd.DataFrame | None:
    """Return train.csv as Id (text) and Category (integer), or None if it is missing.

    Raises DataError if the file is not a valid table, is empty, or has a category that is not a number.
    """
    path = folder / "train.csv"
    if not path.exists():
        return None
    table = _read(path)
    if table.empty or not table["Category"].str.fullmatch("[0-9]{1,9}").all():
        raise DataError("train.csv is empty or has a Category that is not a class number.")
    return table.assign(Category=table["Category"].astype(int))


def _read(path: Path) -> pd.DataFrame:
    """Read a CSV as text; pandas' own reader would accept rows with too many or too few values."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns, rows = list(reader.fieldnames or ()), []
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(f"{path.name}: line {reader.line_num}: expected {len(columns)} values as in the "
                                    "header.")
                rows.append(row)
    except (ValueError, csv.Error) as error:  # not UTF-8 or not a CSV
        raise DataError(f"{path.name} is not a valid CSV file: {error}. Expected the columns Id,Category.") from error
    if columns != COLUMNS:
        raise DataError(f"{path.name} has the columns {','.join(columns)!r}, expected Id,Category.")
    return pd.DataFrame(rows, columns=COLUMNS, dtype=str)
