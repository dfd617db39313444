"""The competition's tables: ``sample-submission.csv`` with the test ids, and ``train.csv`` with the classes."""

import csv
from pathlib import Path

import pandas as pd

from carclf.dataset.layout import CONTROL_CHARACTERS
from carclf.errors import DataError

COLUMNS = ["Id", "Category"]


def read_sample_submission(folder: Path) -> pd.DataFrame:
    """Return the sample submission: the columns Id and Category as text, in the order of the file.

    Raises DataError if the file is missing, is not a valid table, has no rows, or has duplicate ids.
    """
    path = folder / "sample-submission.csv"
    if not path.exists():
        raise DataError("The archive contains no sample-submission.csv. Is this the right competition?")
    table = _read(path)
    if duplicates := table["Id"][table["Id"].duplicated()].tolist():
        raise DataError(f"sample-submission.csv has duplicate Ids, such as {duplicates[0]!r}. Remove the duplicates.")
    return table


def read_train_csv(folder: Path) -> pd.DataFrame | None:
    """Return train.csv as Id (text) and Category (integer), or None if it is missing.

    Raises DataError if the file is not a valid table, has no rows, or has a category that is not a number.
    """
    path = folder / "train.csv"
    if not path.exists():
        return None
    table = _read(path)
    if invalid := table["Category"][~table["Category"].str.fullmatch("[0-9]{1,9}")].tolist():
        raise DataError(f"train.csv has the Category {invalid[0]!r}, which is not a class number.")
    numbers = table["Category"].astype(int)
    if numbers.nunique() < table["Category"].nunique():
        raise DataError("train.csv has class numbers that are written in several ways, such as 1 and 01.")
    return table.assign(Category=numbers)


def _read(path: Path) -> pd.DataFrame:
    """Read a CSV as text; pandas' own reader would accept rows with too many or too few values."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns, rows = next(reader, []), []
            for row in filter(None, reader):
                if len(row) != len(columns):
                    raise DataError(f"{path.name}: line {reader.line_num}: {len(row)} values, expected {len(columns)}. "
                                    "Fix the line.")
                rows.append(row)
    except (ValueError, csv.Error) as error:  # not UTF-8 or not a CSV
        raise DataError(f"{path.name} is not a valid CSV file: {error}. Expected the columns Id,Category.") from error
    if columns != COLUMNS:
        raise DataError(f"{path.name} has the columns {','.join(columns)!r}, expected Id,Category.")
    if not rows:
        raise DataError(f"{path.name} has no rows. Is this the right competition?")
    if invalid := [row[0] for row in rows if not row[0] or CONTROL_CHARACTERS.search(row[0])]:
        raise DataError(f"{path.name} has the Id {invalid[0]!r}. An Id must not be empty or have control characters.")
    return pd.DataFrame(rows, columns=COLUMNS, dtype=str)
