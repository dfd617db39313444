"""Grading of submissions as on Kaggle: checked against the sample submission, then scored by the metric."""

import csv
import math
import re
from collections.abc import Mapping, Sequence

from carclf.demo.competition import Competition
from carclf.errors import DataError
from carclf.formatting import format_count
from carclf.metrics import METRICS
from carclf.natural_order import sort_naturally

CLASS_NUMBER = re.compile(r"[0-9]{1,9}")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
MIN_PROBABILITY = 1e-15  # Kaggle clips the probabilities of a log loss
SCORE_UNITS = 100_000  # 5 digits


def grade(competition: Competition, data: bytes) -> tuple[str, str]:
    """Return the score, truncated to 5 digits ("" without a truth), and an error ("" if there is none)."""
    try:
        rows = [row for row in csv.reader(data.decode("utf-8-sig").splitlines()) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        return "", f"The file is not a valid CSV: {error}"
    position = rows[0].index(competition.columns[0]) if rows and competition.columns[0] in rows[0] else 0
    rows = [row[position:position + 1] + row[:position] + row[position + 1:] for row in rows]  # ids first
    if problem := _table_error(competition, rows):
        return "", problem
    values = {row[0]: row[1:] for row in rows[1:]}
    if problem := _value_error(competition, values):
        return "", problem
    if competition.truth is None:
        return "", ""
    try:
        return _truncate(_score(competition, competition.truth, values)), ""
    except DataError as error:
        return "", str(error)


def _table_error(competition: Competition, rows: list[list[str]]) -> str:
    ids, columns = competition.ids, competition.columns
    if not rows or tuple(rows[0]) != columns:
        return f"The columns must be {','.join(columns)}"
    body = rows[1:]
    if broken := [row for row in body if len(row) != len(columns)]:
        return f"Expected {format_count(len(columns), 'value')} per row, not {broken[0]!r:.80}"
    if unknown := {row[0] for row in body} - set(ids):
        return f"The id {min(unknown)!r:.80} is not in the sample submission"
    if len(body) != len(ids) or {row[0] for row in body} != set(ids):
        return f"The file has {format_count(len(body), 'row')}; expected exactly the sample's {len(ids)} ids"
    return ""


def _value_error(competition: Competition, values: Mapping[str, list[str]]) -> str:
    texts = [text for row in values.values() for text in row]
    if competition.kind != "label":
        wrong = next((text for text in texts if not NUMBER.fullmatch(text) or not math.isfinite(float(text))), None)
        return "" if wrong is None else f"Expected a probability, not {wrong!r:.80}"
    column = competition.columns[1]
    truth = competition.truth
    if truth and all(map(CLASS_NUMBER.fullmatch, truth.values())):
        wrong = next((text for text in texts if not CLASS_NUMBER.fullmatch(text)), None)
        return "" if wrong is None else f"{column} must be a class number, not {wrong!r:.80}"
    return f"{column} must not be empty" if "" in texts else ""


def _score(competition: Competition, truth: Mapping[str, str], values: Mapping[str, list[str]]) -> float:
    """Return the metric of the submitted values; every id is in ``truth`` and in ``values``."""
    import numpy as np

    actual = [_canonical(truth[name]) for name in competition.ids]
    if competition.kind == "label":
        submitted = [_canonical(values[name][0]) for name in competition.ids]
        classes = sort_naturally({*actual, *submitted})
        probabilities = np.eye(len(classes))[_positions(submitted, classes)]
    else:
        probabilities = np.array([[float(text) for text in values[name]] for name in competition.ids])
        classes = list(map(_canonical, competition.columns[1:]))
    if competition.kind == "positive":
        positive = _canonical(competition.positive_class)
        actual = [positive if name == positive else "" for name in actual]
        classes = ["", positive]
        probabilities = np.column_stack([1 - probabilities, probabilities])
    labels = np.array(_positions(actual, classes))
    return METRICS[competition.metric].compute(labels, probabilities.clip(MIN_PROBABILITY), classes)


def _positions(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    positions = {name: position for position, name in enumerate(classes)}
    return [positions[name] for name in names]


def _canonical(name: str) -> str:
    """Return a class as it is compared: 007 is 7."""
    return str(int(name)) if CLASS_NUMBER.fullmatch(name) else name


def _truncate(score: float) -> str:
    # Rounding first removes the error of a binary fraction, which would turn 0.29 into 0.28999.
    units = math.floor(round(score * SCORE_UNITS, 6))
    return f"{units / SCORE_UNITS:.5f}"
