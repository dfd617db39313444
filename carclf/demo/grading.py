"""Grade a submission: its accuracy, or what is wrong with the file."""

import csv
import re
from collections.abc import Mapping, Sequence

COLUMNS = ["Id", "Category"]


def grade_submission(ids: Sequence[str], truth: Mapping[str, str] | None, data: bytes) -> tuple[str, str]:
    """Return the accuracy, truncated to 5 digits ("" without a truth), and an error ("" if there is none)."""
    try:
        rows = [row for row in csv.reader(data.decode("utf-8-sig").splitlines()) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        return "", f"The file is not a valid CSV: {error}"
    if problem := _first_error(ids, rows):
        return "", problem
    if truth is None:
        return "", ""
    correct = sum(int(category) == int(truth[name]) for name, category in rows[1:])
    return truncate_fraction(correct, len(ids)), ""


def truncate_fraction(correct: int, total: int) -> str:
    """Return correct/total with 5 decimals, truncated; integer arithmetic keeps it exact."""
    units = correct * 100_000 // total
    return f"{units // 100_000}.{units % 100_000:05d}"


def _first_error(ids: Sequence[str], rows: list[list[str]]) -> str:
    if not rows or rows[0] != COLUMNS:
        return "The columns must be Id,Category"
    body = rows[1:]
    if broken := [row for row in body if len(row) != len(COLUMNS)]:
        return f"Expected two values per row, not {broken[0]!r:.80}"
    if len(body) != len(ids) or {row[0] for row in body} != set(ids):
        return f"The file has {len(body)} rows; expected exactly the sample's {len(ids)} ids"
    if wrong := [row[1] for row in body if not re.fullmatch(r"[0-9]{1,9}", row[1])]:
        return f"Category must be a class number, not {wrong[0]!r:.80}"
    return ""
