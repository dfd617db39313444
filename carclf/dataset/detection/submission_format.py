"""The sample submission and what a submission contains: labels, the positive class's probability, or one per class."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import pandas as pd

from carclf.config.settings import Config, Data
from carclf.dataset.detection.ids import ImageNames, join
from carclf.dataset.detection.metric import parse_metric
from carclf.dataset.detection.result import SubmissionFormat, class_key
from carclf.dataset.detection.tables import Table
from carclf.dataset.layout import CONTROL_CHARACTERS
from carclf.errors import ConfigError, DataError
from carclf.formatting import format_count, format_list

_NAMES = ("samplesub", "submissionformat", "examplesub")
_INTEGER = re.compile(r"-?[0-9]+")
_NUM_BINARY = 2
Kind = Literal["label", "positive", "probabilities"]


def is_sample(path: str) -> bool:
    """Return True if a path is that of a sample submission, such as sampleSubmission_stg1.csv."""
    name = re.sub("[^a-z]", "", path.rpartition("/")[2].lower())
    return any(part in name for part in _NAMES)


def find_sample(
    tables: Sequence[Table], errors: Mapping[str, DataError], images: pd.DataFrame, config: Config
) -> Table | None:
    """Return the sample submission with its ids in the first column, if there is one.

    Raises ConfigError if there are several, or none as ``submit.sample`` names; DataError if it cannot be read, has no
    target, or an id is empty, repeated or has control characters.
    """
    setting = config.submit.sample
    paths = sorted(path for path in [*errors, *(table.path for table in tables)]
                   if (setting in (path, path.rpartition("/")[2]) if setting else is_sample(path)))
    by_path = {table.path: table for table in tables}
    if setting and not paths:
        raise ConfigError(f"submit.sample is {setting!r}, which is not a table of the source.")
    if errors.keys() & set(paths):
        raise errors[min(errors.keys() & set(paths))]
    if len({by_path[path].rows.to_csv() for path in paths}) > 1:
        raise ConfigError(f"Several tables may be the sample submission: {', '.join(paths)}. Set submit.sample.")
    if not paths:
        return None
    sample = _with_ids_first(by_path[paths[0]], images, config.data)
    _check_sample(sample)
    return sample


def _with_ids_first(sample: Table, images: pd.DataFrame, config: Data) -> Table:
    """Move the ids to the first column: that of ``data.id_column``, or the one that names images if the first cannot.

    A first column without a name, as pandas writes the numbers of the rows, is left out.
    """
    first, *others = sample.rows.columns
    ids = sample.rows[first]
    is_index = first == "1" and "2" not in others and len(others) > 1
    column = next(iter(sample.find_columns(config.id_column)), first)
    if column == first and (is_index or ids.duplicated().any() or not ids.all()):
        joined = join(sample, ImageNames(images), config)
        column = joined.id_column if joined else first
    rows = sample.rows.drop(columns=first) if is_index and column != first else sample.rows
    rest = rows.columns.drop(column)
    return replace(sample, rows=rows[[column, *rest]], id_position=list(rows.columns).index(column))


def _check_sample(sample: Table) -> None:
    ids = sample.rows.iloc[:, 0]
    if len(sample.rows.columns) == 1:
        raise DataError(f"{sample.path} has only the column {sample.rows.columns[0]!r}. Expected an id and a target.")
    if duplicates := sorted(ids[ids.duplicated()]):
        raise DataError(f"{sample.path} has duplicate ids, such as {duplicates[0]!r} in {sample.rows.columns[0]}. "
                        "Remove the duplicates, or set data.id_column to the column with the ids.")
    if invalid := sorted(name for name in ids if not name or CONTROL_CHARACTERS.search(name)):
        raise DataError(f"{sample.path} has the id {invalid[0]!r}. An id must not be empty or have control characters.")


def targets(sample: Table | None) -> list[str]:
    """Return the columns of the sample submission but the first one."""
    return list(sample.rows.columns[1:]) if sample else []


def detect_format(
    sample: Table, names: Mapping[str, str], config: Config, evaluation_metric: str
) -> SubmissionFormat:
    """Return the form of a submission. ``names`` are the class names by the labels in the data.

    Raises ConfigError if the kind or the positive class is ambiguous, DataError if the target are lists or columns
    that are not the labels.
    """
    metric = parse_metric(evaluation_metric) if config.data.metric == "auto" else config.data.metric
    columns, labels = targets(sample), list(names)
    if config.submit.kind != "auto" and (len(columns) > 1) != (config.submit.kind == "probabilities"):
        raise ConfigError(f"submit.kind is {config.submit.kind!r}, but {sample.path} has "
                          f"{format_count(len(columns), 'column')} after the ids: one is for the class or the "
                          "probability of the positive class, several are for a probability per class. Set submit.kind "
                          "to auto.")
    if len(columns) > 1:
        kind: Kind = "probabilities"
        values = _match_columns(sample, labels)
    else:
        reject_lists(sample, labels)
        kind = config.submit.kind if config.submit.kind != "auto" else _detect_kind(sample, labels, metric)
        values = {label: label for label in labels}
    if kind == "positive" or (kind == "label" and _is_encoded(sample, labels)):
        positive = _find_positive_class(columns[0], names, config)
        if kind == "label":
            values = {label: str(int(label == positive)) for label in labels}
    else:
        positive = ""
    values = {names[label]: value for label, value in values.items()}
    return SubmissionFormat(sample.path, sample.rows.columns[0], tuple(columns), kind, values, names.get(positive, ""),
                            sample.id_position)


def _match_columns(sample: Table, labels: Sequence[str]) -> dict[str, str]:
    by_key = {class_key(column): column for column in targets(sample)}
    missing = [label for label in labels if class_key(label) not in by_key]
    if missing:
        raise DataError(f"{sample.path} has {format_count(len(by_key), 'target column')}, but none for the class "
                        f"{missing[0]!r}. If the columns are independent targets, images have several labels, which is "
                        "not supported; if the classes are wrong, set data.label_column.")
    return {label: by_key[class_key(label)] for label in labels}


def reject_lists(sample: Table, labels: Sequence[str]) -> None:
    """Raise DataError if a target has several classes: a list of the most probable ones."""
    known = set(labels)
    values = {value for value in sample.rows.iloc[:, 1] if value not in known and len(value.split()) > 1}
    if lists := sorted(value for value in values if all(part in known or _INTEGER.fullmatch(part)
                                                        for part in value.split())):
        raise DataError(f"{sample.path} has lists of classes, such as {lists[0][:50]!r}. Competitions that rank "
                        "several classes per image are not supported: a submission has one class, or probabilities.")


def _detect_kind(sample: Table, labels: Sequence[str], metric: str) -> Kind:
    values = {value.strip() for value in sample.rows.iloc[:, 1]} - {""}
    if any(_is_fraction(value) for value in values - set(labels)):
        return "positive"
    is_binary = len(labels) == _NUM_BINARY and all(map(_INTEGER.fullmatch, values or labels))
    if not is_binary:
        return "label"
    if not metric:
        raise ConfigError(f"{sample.path} has whole numbers, and the metric is unknown: a submission may contain the "
                          "class or the probability of the positive class. Set submit.kind to label or positive.")
    return "positive" if metric in ("roc_auc", "log_loss") else "label"


def _is_fraction(value: str) -> bool:
    return bool(re.fullmatch(r"[0-9]*\.[0-9]+(e-?[0-9]+)?", value.lower()))


def _is_encoded(sample: Table, labels: Sequence[str]) -> bool:
    """Return True if the sample has numbers for two classes with names. Raises ConfigError if there are more."""
    values = {value.strip() for value in sample.rows.iloc[:, 1]} - {""}
    is_encoded = bool(values) and all(map(_INTEGER.fullmatch, values)) and not all(map(_INTEGER.fullmatch, labels))
    if is_encoded and len(labels) > _NUM_BINARY:
        raise ConfigError(f"{sample.path} has numbers, such as {min(values)!r}, but the classes are "
                          f"{format_list(labels)}. Set data.label_column to the column with the numbers.")
    return is_encoded


def _find_positive_class(target: str, names: Mapping[str, str], config: Config) -> str:
    """Return the label whose probability is submitted: 1 of 0 and 1, or the one that the column is called like."""
    setting = config.submit.positive_class
    if positive := [label for text in ([setting] if setting else ["1", target]) for label, name in names.items()
                    if class_key(text) in (class_key(label), class_key(name))]:
        return positive[0]
    if len(names) != _NUM_BINARY:
        raise DataError("A submission contains one probability, but the data have "
                        f"{format_count(len(names), 'class', 'classes')}. Expected two. Set submit.kind to label if it "
                        "contains the class.")
    raise ConfigError(f"The column {target!r} of the submission has numbers, and the classes are "
                      f"{' and '.join(names.values())}. Set submit.positive_class to the one that is 1.")
