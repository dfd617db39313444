"""The content of ``submission.csv``: a class, the probability of the positive class, or one probability per class."""

import csv
import io
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from carclf.dataset.detection.result import SampleSubmission, SubmissionFormat
from carclf.errors import DataError
from carclf.formatting import format_count

DIGITS = 8  # of a probability: the log loss of a confident prediction depends on them
SUM_TOLERANCE = 1e-5


def submission_table(
    sample: SampleSubmission, form: SubmissionFormat, class_names: Sequence[str], probabilities: npt.NDArray[np.float64]
) -> pd.DataFrame:
    """Return the rows of a submission as text. ``probabilities`` have the shape (test ids, classes), calibrated.

    Classes of the sample that the model does not know have the probability 0.
    """
    columns = {form.id_column: list(sample.test_ids)}
    if form.kind == "label":
        columns[form.columns[0]] = [form.values[class_names[position]] for position in probabilities.argmax(1)]
        return pd.DataFrame(columns, dtype="str")[form.header]
    column_by_class = {form.positive_class: form.columns[0]} if form.kind == "positive" else form.values
    zeros = np.zeros(len(probabilities))
    values = {column_by_class[name]: probabilities[:, number] for number, name in enumerate(class_names)
              if name in column_by_class}
    for column in form.columns:
        columns[column] = [f"{value:.{DIGITS}f}" for value in values.get(column, zeros)]
    return pd.DataFrame(columns, dtype="str")[form.header]


def check_submission(text: str, sample: SampleSubmission, form: SubmissionFormat) -> None:
    """Raise DataError unless a file has the sample's header, its ids in the same order, and valid values only."""
    if problem := _problem(list(csv.reader(io.StringIO(text))), sample, form):
        raise DataError(f"submission.csv {problem}. It was not sent. Run again with --set force=true.")


def _problem(rows: list[list[str]], sample: SampleSubmission, form: SubmissionFormat) -> str:
    """Return what is wrong with the rows, or an empty string."""
    header = form.header
    if not rows or rows[0] != header:
        return f"has the columns {rows[:1]!s:.200}, not {header!s:.200}"
    if malformed := [row for row in rows if len(row) != len(header)]:
        return (f"has a row of {format_count(len(malformed[0]), 'value')}, {malformed[0]!r:.80}, where {len(header)} "
                "are expected")
    for row in rows:
        row.insert(0, row.pop(form.id_position))
    ids = [row[0] for row in rows[1:]]
    if num_repeated := len(ids) - len(set(ids)):
        return f"has {num_repeated} repeated ids"
    if ids != list(sample.test_ids):
        return f"has {format_count(len(ids), 'row')}, not the sample's {len(sample.test_ids)} ids in their order"
    if form.kind == "label":
        unknown = {row[1] for row in rows[1:]} - set(form.values.values())
        return f"has unknown classes {sorted(unknown)!s:.200}" if unknown else ""
    invalid = next((row for row in rows[1:] if not _are_probabilities(row[1:], form)), None)
    return f"has a row without valid probabilities, {invalid!r:.200}" if invalid else ""


def _are_probabilities(texts: list[str], form: SubmissionFormat) -> bool:
    try:
        values = [float(text) for text in texts]
    except ValueError:
        return False
    if not all(0 <= value <= 1 for value in values):  # also False for NaN
        return False
    return form.kind == "positive" or math.isclose(sum(values), 1, abs_tol=SUM_TOLERANCE * len(values))
