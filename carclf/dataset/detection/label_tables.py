"""Labels from tables: which column has the classes, one-hot columns, and tables for given subsets."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from carclf.config.settings import Data
from carclf.dataset.detection.groups import is_group_column
from carclf.dataset.detection.ids import ImageNames, Joined, join
from carclf.dataset.detection.submission_format import class_key
from carclf.dataset.detection.subsets import SOURCES, role_of
from carclf.dataset.detection.tables import Table
from carclf.errors import ConfigError, DataError

# Columns with these names are preferred to others with as good values.
_LABEL_NAMES = {"label", "labels", "class", "classes", "classname", "category", "categoryid", "target"}
_ONE_HOT = {"0", "1", "0.0", "1.0"}
_NUM_CHECKED = 1000  # values with several words


class AmbiguousColumnError(ConfigError):
    """Several columns of a table may have the labels."""


@dataclass(frozen=True)
class TableLabels:
    """The labels of a table.

    ``values`` are the labels by row label of the images, ``sources`` their sources if the table has them. ``rank`` is 2
    if the sample submission or the settings have the column, 1 if its name is usual, else 0.
    """

    joined: Joined
    column: str
    values: "pd.Series[str]"
    rank: int

    @property
    def sources(self) -> "pd.Series[str] | None":
        """The sources of the images in the column of subsets, with values such as train and test, if there is one."""
        for column in self.joined.table.rows.columns:
            if column not in (self.joined.id_column, self.column):
                roles = {value: role_of(value) for value in set(self.joined.table.rows[column].str.strip())}
                if all(roles.values()):
                    values = self.joined.values(column)
                    return values[~values.index.duplicated()].map(roles).map(SOURCES)
        return None


def join_tables(tables: Sequence[Table], images: pd.DataFrame, config: Data) -> list[Joined]:
    """Return the tables with rows about images. Those of a subset are compared with the images of that subset first."""
    pools: dict[str, list[ImageNames]] = {}
    joined = []
    for table in tables:
        role = table.role or "train"
        if role not in pools:
            roles = {"train": ["train", ""], "predict": ["test", "predict"]}.get(role, [role])
            subsets = [images[images["role"].isin(roles)], images]
            pools[role] = [ImageNames(subset) for subset in subsets if len(subset)]
        results = [result for names in pools[role] if (result := join(table, names, config))]
        if results:
            complete = [result for result in results if result.match.is_complete]
            joined.append((complete or sorted(results, key=lambda result: -result.num_images))[0])
    return joined


def read_labels(joined: Joined, targets: Sequence[str], config: Data) -> TableLabels | None:
    """Return the labels of a table; None if no column has labels.

    Raises AmbiguousColumnError if several columns fit, DataError if images have several labels.
    """
    columns = [column for column in joined.table.rows.columns if column != joined.id_column]
    if one_hot := [] if config.label_column else _one_hot_columns(joined, columns, targets):
        values = _read_one_hot(joined, one_hot)
        return TableLabels(joined, f"{len(one_hot)} one-hot columns", values, 2 if set(one_hot) <= set(targets) else 1)
    column, rank = _choose_column(joined, columns, targets, config)
    if not column:
        return None
    values = joined.values(column)
    values = values[values != ""]
    _reject_several_labels(joined, column, values)
    return TableLabels(joined, column, values[~values.index.duplicated()], rank)


def _one_hot_columns(joined: Joined, columns: Sequence[str], targets: Sequence[str]) -> list[str]:
    """Return the columns of the targets, or those with 0 and 1 of which each row has one; [] if there are none."""
    rows = joined.table.rows
    if len(targets) > 1 and set(targets) <= set(columns):
        return list(targets)
    binary = [column for column in columns if set(rows[column]) <= _ONE_HOT]
    is_one_hot = len(binary) > 1 and (rows[binary].astype(float).sum(axis=1) == 1).all()
    others = set(columns) - set(binary) - {column for column in columns if is_group_column(column)}
    return binary if is_one_hot or (len(binary) > 1 and not others and not targets) else []


def _read_one_hot(joined: Joined, columns: Sequence[str]) -> "pd.Series[str]":
    rows = pd.DataFrame({column: joined.values(column) for column in columns})
    if not rows.isin(_ONE_HOT).all(axis=None) or not (rows.astype(float).sum(axis=1) == 1).all():
        raise DataError(f"{joined.table.path}: the columns {', '.join(columns[:5])} do not have exactly one 1 per row. "
                        "Images with several labels are not supported. If another column has the class, set "
                        "data.label_column.")
    return rows.astype(float).idxmax(axis=1).astype("object")


def _choose_column(
    joined: Joined, columns: Sequence[str], targets: Sequence[str], config: Data
) -> tuple[str, int]:
    if config.label_column:
        return joined.table.column(config.label_column, "data.label_column"), 2
    if len(targets) == 1 and (matches := [column for column in columns if column.lower() == targets[0].lower()]):
        return matches[0], 2
    rows = joined.table.rows
    if len(targets) > 1:
        keys = {class_key(target) for target in targets}
        if matches := [column for column in columns if 1 < len(names := set(rows[column])) <= len(keys)
                       and {class_key(name) for name in names} <= keys]:
            return _only(joined, matches), 2
    fitting = [column for column in columns if _may_be_label(rows[column], column)]
    usual = [column for column in fitting if re.sub("[^a-z]", "", column.lower()) in _LABEL_NAMES]
    return (_only(joined, usual or fitting), int(bool(usual))) if fitting else ("", 0)


def _may_be_label(values: "pd.Series[str]", column: str) -> bool:
    """Return True if a column has 2 to n/2 values that are neither fractions nor subsets nor groups."""
    distinct = set(values)
    if _lists(values, column):
        return True  # to be rejected
    if not 1 < len(distinct) <= len(values) / 2 or is_group_column(column):
        return False
    return not all(re.fullmatch(r"-?[0-9]*\.[0-9]+", value) for value in distinct) and not all(map(role_of, distinct))


def _lists(values: "pd.Series[str]", column: str) -> list[str]:
    """Return the values that are lists, if all with several words are: of other values, or of numbers in a column of labels."""
    singles = {value for value in set(values) if not re.search(r"[ ,;|]", value)}
    lists = sorted(set(values) - singles)[:_NUM_CHECKED]
    parts = [set(re.split(r"[ ,;|]+", value)) for value in lists]
    may_have_numbers = bool(re.search("label|class|categor|attribute|tag|target", column.lower()))
    are_lists = all(names <= singles or (may_have_numbers and all(map(str.isdecimal, names))) for names in parts)
    return lists if are_lists else []


def _only(joined: Joined, columns: Sequence[str]) -> str:
    """Return the column; of columns with the same classes, the first one with names."""
    rows = joined.table.rows
    first = next((column for column in columns if not rows[column].str.fullmatch("[0-9]+").all()), columns[0])
    for column in columns:
        num_pairs = len(rows[[first, column]].drop_duplicates()) if column != first else rows[first].nunique()
        if not num_pairs == rows[first].nunique() == rows[column].nunique():
            raise AmbiguousColumnError(f"{joined.table.path}: the columns {', '.join(columns[:10])} may have the "
                                       "classes. Set data.label_column to one of them.")
    return first


def _reject_several_labels(joined: Joined, column: str, values: "pd.Series[str]") -> None:
    path = joined.table.path
    pairs = pd.DataFrame({"row": values.index, "label": values.to_numpy()}).drop_duplicates()
    repeated = pairs[pairs["row"].duplicated()]
    if len(repeated):
        image_id = min(key for key, row in joined.match.rows.items() if row == repeated.iloc[0, 0])
        raise DataError(f"{path}: {len(repeated)} images have several labels in {column} (first: {image_id!r}). Images "
                        "with several labels are not supported: keep one row per image.")
    if lists := _lists(values, column):
        raise DataError(f"{path}: {column} has lists of labels, such as {lists[0]!r}. Images with several labels are "
                        "not supported. If another column has the class, set data.label_column.")


def combine(candidates: Sequence[TableLabels]) -> list[TableLabels]:
    """Return the tables that give the labels: for each subset in a table's name, the one with the best column.

    Raises ConfigError if two tables of a subset fit equally well and have different labels.
    """
    best: dict[str, list[TableLabels]] = {}
    for candidate in candidates:
        best.setdefault(candidate.joined.table.role or "train", []).append(candidate)
    result = []
    for fitting in best.values():
        rank = max(candidate.rank for candidate in fitting)
        tables = [candidate for candidate in fitting if candidate.rank == rank]
        if any(not tables[0].values.equals(candidate.values) for candidate in tables):
            paths = ", ".join(sorted(candidate.joined.table.path for candidate in tables))
            raise ConfigError(f"Several tables may have the labels: {paths}. Set data.label_table to one of them.")
        result.append(tables[0])
    if len(result) > 1 and max(candidate.rank for candidate in result) > 0:
        result = [candidate for candidate in result if candidate.rank > 0]
    return result
