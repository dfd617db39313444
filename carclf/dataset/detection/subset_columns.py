"""Columns of tables that give the subset of each image: split with train and test, or is_valid with true and false."""

import re
from collections.abc import Collection, Sequence

import pandas as pd

from carclf.dataset.detection.ids import Joined
from carclf.dataset.detection.result import Detection
from carclf.dataset.detection.subsets import SOURCES, role_of
from carclf.errors import ConfigError
from carclf.formatting import format_count

FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True, "f": False, "t": True,
         "no": False, "yes": True, "n": False, "y": True}
_COLUMNS = {"split", "splits", "subset", "partition", "phase", "usage"}
_FLAG_COLUMN = re.compile("is_?(train|training|val|valid|validation|test|testing)(_?(image|img|sample|set))?")
_MAX_SUBSETS = 10


def read_roles(column: str, values: Collection[str]) -> dict[str, str]:
    """Return the role of each value of a column of subsets; an empty dict if the column is not about subsets.

    Such a column has names such as train and test, or flags if it is called like is_valid; is_train is false for test
    images. An unknown value has the role ""; it occurs only in a column that is called like split.
    """
    is_flag = _FLAG_COLUMN.fullmatch(column.lower()) and len(values) > 1
    if is_flag and (flags := _read_flags(column, values)):
        return flags
    roles = {value: role_of(value) for value in values}
    is_split = column.lower() in _COLUMNS and any(roles.values()) and len(values) <= _MAX_SUBSETS
    return roles if is_split or all(roles.values()) else {}


def _read_flags(column: str, values: Collection[str]) -> dict[str, str]:
    """Return the role of true and of false in a column with the name of a role; an empty dict for other values."""
    role = role_of(re.sub("^is_?", "", column.lower()))
    if not role or not {value.lower() for value in values} <= FLAGS.keys():
        return {}
    return {value: role if FLAGS[value.lower()] else "test" if role == "train" else "train" for value in values}


def find_subset_columns(
    joined: Sequence[Joined], label_columns: Collection[tuple[str, str]], setting: str
) -> tuple["pd.Series[str]", list[Detection]]:
    """Return the sources of the images in columns of subsets by row label, and one detection per column.

    The first column counts in which an image is not for training. ``label_columns`` are paths of tables and columns
    that have the labels, ``setting`` is ``data.subset_column``. Raises ConfigError if a column has an unknown value, or
    the setting is none of the columns.
    """
    sources = pd.Series(dtype="object")
    detections: list[Detection] = []
    for table in joined if setting != "none" else []:
        for column in table.table.rows.columns:
            if column == table.id_column or (table.path, column) in label_columns:
                continue
            if roles := _column_roles(table, column, setting):
                values = table.first_values(column).str.strip().map(roles)
                given = values.map(SOURCES)
                sizes = values.value_counts().sort_index()
                counts = ", ".join(format_count(num, f"{role} image") for role, num in sizes.items())
                detections.append(Detection(
                    "subsets", ", ".join(sizes.index), f"{column} of {table.path} has {counts}"))
                sources = sources.where(sources != "train", given).combine_first(given)
    if setting not in ("", "none") and not detections:
        raise ConfigError(f"data.subset_column is {setting!r}, which is not a column of a table with rows about the "
                          "labeled images. Set it to one of their columns, or to none.")
    return sources, detections


def _column_roles(table: Joined, column: str, setting: str) -> dict[str, str]:
    values = table.table.rows[column].str.strip().unique()
    if not setting:
        roles = read_roles(column, values)
    elif column.lower() == setting.lower():
        roles = _read_flags(column, values) or {value: role_of(value) for value in values}
    else:
        return {}
    if unknown := sorted(value for value, role in roles.items() if not role):
        raise ConfigError(f"{table.path}: the column {column} has the value {unknown[0]!r}. Expected train, val or "
                          "test in each row. Correct the rows, or set data.subset_column to another column or to none.")
    return roles
