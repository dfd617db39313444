"""How a submission is graded: the share of right answers, or what is wrong with the file."""

import csv
import re
from collections.abc import Mapping, Sequence

COLUMNS = ["Id", "Category"]


def grade_submission(ids: Sequence[str], truth: Mapping[str, str] | None, data: bytes) -> tuple[str, str]:
    """The accuracy, cut to 5 digits ("" without a truth), and what is wrong with the file ("" if nothing)."""
    try:
        rows = [row for row in csv.reader(data.decode("utf-8-sig").splitlines()) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        return "", f"The file is no CSV: {error}"
    if problem := _first_error(ids, rows):
        return "", problem
    if truth is None:
        return "", ""
    correct = sum(int(category) == int(truth[name]) for name, category in rows[1:])
    return cut_to_digits(correct, len(ids)), ""


def cut_to_digits(correct: int, total: int) -> str:
    """A share with 5 digits after the point, cut and not rounded, in whole numbers so that it is exact."""
    share = correct * 100_000 // total
    return f"{share // 100_000}.{share % 100_000:05d}"


def _first_error(ids: Sequence[str], rows: list[list[str]]) -> str:
    if not rows or rows[0] != COLUMNS:
        return "The columns must be Id,Category"
    answers = rows[1:]
    if broken := [row for row in answers if len(row) != 2]:
        return f"Two values per row are expected, not {broken[0]!r:.80}"
    if len(answers) != len(ids) or {row[0] for row in answers} != set(ids):
        return f"The file has {len(answers)} rows; exactly the sample's {len(ids)} ids are expected"
    if wrong := [row[1] for row in answers if not re.fullmatch(r"[0-9]{1,9}", row[1])]:
        return f"Category must be a class number, not {wrong[0]!r:.80}"
    return ""
