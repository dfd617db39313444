"""Which subset each labeled image belongs to: by its folder, and by tables' names and columns such as split."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from carclf.dataset.detection.groups import is_group_column
from carclf.dataset.detection.ids import Joined
from carclf.dataset.detection.result import Detection
from carclf.dataset.detection.subsets import role_of
from carclf.dataset.findings import Finding
from carclf.errors import ConfigError
from carclf.formatting import format_count, format_list

FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True, "f": False, "t": True,
         "no": False, "yes": True, "n": False, "y": True}
# Of several roles of an image, the last one here counts; REST are the images that are not for training.
REST = "rest"
_ORDER = {role: rank for rank, role in enumerate(("", "train", REST, "val", "test", "predict"))}
_SOURCES = ("train", "train", "holdout", "val", "holdout", "holdout")
_COLUMNS = {"split", "splits", "subset", "partition", "phase", "usage"}
_FLAG_COLUMN = re.compile("(is|in)?_?(train|training|val|valid|validation|test|testing)(_?(image|img|sample|set))?")
_MAX_SUBSETS = 10


@dataclass(frozen=True)
class Subsets:
    """The source of each labeled image by row label (train, val or holdout), and what columns of tables showed.

    ``unlabeled`` are the row labels of the unlabeled images that a column assigns to the test subset.
    """

    sources: "pd.Series[str]"
    unlabeled: "pd.Index[int]"
    detections: Sequence[Detection] = ()
    findings: Sequence[Finding] = ()


def read_roles(column: str, values: Collection[str]) -> dict[str, str]:
    """Return the role of each value of a column of subsets; an empty dict if the column is not about subsets.

    Such a column has up to ten names such as train and test, or flags if it is called like is_valid; is_train is false
    for the REST. An unknown value has the role ""; it occurs only in a column that is called like split.
    """
    is_flag = _FLAG_COLUMN.fullmatch(column.lower()) and len(values) > 1
    if is_flag and (flags := _read_flags(column, values)):
        return flags
    if len(values) > _MAX_SUBSETS or is_group_column(column) or any("/" in value for value in values):
        return {}
    roles = {value: role_of(value) for value in values}
    is_split = column.lower() in _COLUMNS and len(values) > 1
    may_be_numbers = any(roles.values()) or all(map(str.isdecimal, values))
    return roles if (is_split and may_be_numbers) or all(roles.values()) else {}


def _read_flags(column: str, values: Collection[str]) -> dict[str, str]:
    """Return the role of true and of false in a column with the name of a role; an empty dict for other values."""
    role = role_of(re.sub("^(is|in)_?", "", column.lower()))
    if not role or not {value.lower() for value in values} <= FLAGS.keys():
        return {}
    return {value: role if FLAGS[value.lower()] else REST if role == "train" else "train" for value in values}


def find_subsets(
    labeled: pd.DataFrame, joined: Sequence[Joined], label_columns: Collection[tuple[str, str]], setting: str
) -> Subsets:
    """Return the subsets of the ``labeled`` images, which have the column ``role`` of their folders.

    Of several roles of an image, test counts before validation, and validation before training. ``label_columns`` are
    paths of tables and columns that have the labels, ``setting`` is ``data.subset_column``. Raises ConfigError if a
    column has an unknown value or ambiguous ids, or the setting is none of the columns.
    """
    roles = [labeled["role"]]
    detections, findings = [], []
    unlabeled = labeled.index[:0]
    for table in joined:
        rows = pd.Series(table.table.role, sorted(set(table.match.rows.values())), dtype="object")
        is_named = table.match.form.endswith("name") or any(path == table.path for path, _ in label_columns)
        roles += [rows] * (table.table.role in ("val", "test", "predict") and is_named)
    for table, column in _columns(joined, label_columns, setting):
        values = table.first_values(column).str.strip()
        role_by_value = _column_roles(table, column, setting)
        if all(value.isdecimal() for value in role_by_value) and not any(role_by_value.values()):
            findings.append(Finding("unused_subsets", table.path, (
                f"The column {column} has numbers, {format_list(sorted(role_by_value))}, of unknown meaning. It is not "
                "used. If they are subsets, write train, val and test instead.")))
            continue
        roles.append(values.map(role_by_value))
        is_test = roles[-1].isin(["test", "predict"])
        unlabeled = unlabeled.union(is_test.index[is_test].difference(labeled.index))
        sizes = roles[-1].value_counts().sort_index()
        counts = ", ".join(format_count(num, f"{role} image") for role, num in sizes.items())
        detections.append(Detection("subsets", ", ".join(sizes.index), f"{column} of {table.path} has {counts}"))
    if setting not in ("", "none") and not detections:
        raise ConfigError(f"data.subset_column is {setting!r}, which is not a column with train, val or test of "
                          "a table with rows about the labeled images. Set it to one of their columns, or to none.")
    ranks = pd.concat([values.reindex(labeled.index).map(_ORDER).fillna(0) for values in roles], axis=1).max(axis=1)
    return Subsets(ranks.map(lambda rank: _SOURCES[int(rank)]), unlabeled, detections, findings)


def _columns(
    joined: Sequence[Joined], label_columns: Collection[tuple[str, str]], setting: str
) -> Iterator[tuple[Joined, str]]:
    """Yield the tables and columns that are about subsets."""
    for table in joined if setting != "none" else []:
        for column in table.table.rows.columns:
            is_other = column == table.id_column or (table.path, column) in label_columns
            if not is_other and _column_roles(table, column, setting):
                if table.match.ambiguous:
                    raise ConfigError(f"{table.path}: {table.match.ambiguous[0]!r} names several images, so the column "
                                      f"{column} does not give their subsets. Write the ids as paths in the source, or "
                                      "set data.subset_column to none.")
                yield table, column


def _column_roles(table: Joined, column: str, setting: str) -> dict[str, str]:
    values = table.table.rows[column].str.strip().unique()
    if not setting:
        roles = read_roles(column, values)
    elif column.lower() == setting.lower():
        roles = _read_flags(column, values) or {value: role_of(value) for value in values}
    else:
        return {}
    unknown = sorted(value for value, role in roles.items() if not role)
    if unknown and (setting or any(roles.values())):
        raise ConfigError(f"{table.path}: the column {column} has the value {unknown[0]!r}. Expected train, val or "
                          "test in each row. Correct the rows, or set data.subset_column to another column or to none.")
    return roles
