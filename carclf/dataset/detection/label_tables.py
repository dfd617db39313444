"""Labels from tables: which column has the classes, one-hot columns, and tables for given subsets."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from carclf.config.settings import Data
from carclf.dataset.detection.files import image_stem
from carclf.dataset.detection.given_subsets import FLAGS, has_unknown_subsets, is_called_like_flag, read_roles
from carclf.dataset.detection.groups import is_group_column
from carclf.dataset.detection.ids import ImageNames, Joined, describe_unmatched, first_of_each, join, join_by_keys
from carclf.dataset.detection.result import class_key, class_name, number_key
from carclf.dataset.detection.subsets import is_part
from carclf.dataset.detection.tables import LABEL_SEPARATOR, NAME_OF_LABELS, Table, is_usual_label
from carclf.errors import ConfigError, DataError
from carclf.formatting import format_count, format_list

_ONE_HOT = {name: int(flag) for name, flag in FLAGS.items()} | {"": 0, "x": 1}  # in lower case
_WHOLE = r"[0-9]+\.0"  # of numbers in a column with missing values, as other tools write them
_NUM_CHECKED = 1000  # values with several words
_NUMBER = re.compile(r"-?[0-9]*\.?[0-9]*")
# Columns of numbers, in lower case, that describe an image file or a box.
_MEASURE = re.compile("(image|img|file|box|bbox)?_?(width|height|w|h|size|bytes|area|depth|channels|dpi)"
                      "|[xy](_?(min|max|[0-9]))?|license|iscrowd|date_captured")
_DATE = re.compile(r"([0-9]{4}([-/.:])[0-9]{1,2}\2[0-9]{1,2}|[0-9]{1,2}([-/.])[0-9]{1,2}\3[0-9]{4})([ T].*)?")
_NAME_OF_TAGS = re.compile("tags|attributes|annotations")  # of a column, in lower case


class AmbiguousColumnError(ConfigError):
    """Several columns of a table may have the labels."""


class SeveralLabelsError(DataError):
    """Images have several labels in a column; ``is_usual`` if its name is that of labels."""

    def __init__(self, message: str, *, is_usual: bool) -> None:
        super().__init__(message)
        self.is_usual = is_usual


@dataclass(frozen=True)
class TableLabels:
    """The labels of a table, by row label of the images.

    ``classes`` are those of all rows, also of rows without an image, and ``empty`` the one-hot columns without a 1.
    ``rank`` is 2 if the sample submission or the settings have the column, 1 if its name is usual, else 0.
    """

    joined: Joined
    column: str
    values: "pd.Series[str]"
    rank: int
    classes: frozenset[str]
    empty: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """The names of the columns with the labels; ``column`` describes them."""
        is_column = self.column in self.joined.table.rows.columns
        return [self.column] if is_column else [*self.classes, *self.empty]

    @property
    def role(self) -> str:
        """The subset in the table's name; train without one."""
        return self.joined.table.role or "train"


Reading = TableLabels | ConfigError | DataError | None  # of a table: its labels, why they cannot be read, or none


def join_tables(tables: Sequence[Table], images: pd.DataFrame, config: Data) -> list[Joined]:
    """Return the tables with rows about images.

    Those of a subset are compared with the images of that subset first. If several images have an id, those in the
    table's folder are compared.
    """
    names: dict[str, list[ImageNames]] = {}
    joined = []
    for table in tables:
        role = table.role or "train"
        if role not in names:
            roles = {"train": ["train", ""], "predict": ["test", "predict"]}.get(role, [role])
            subset = images[images["role"].isin(roles)]
            names[role] = [ImageNames(subset)] * (len(subset) > 0)
            names[role] += [ImageNames(images)] * (len(subset) < len(images))
        results = [result for pool in names[role] if (result := join(table, pool, config))]
        if any(result.match.ambiguous for result in results):
            nearby = images[images["path"].str.startswith(f"{table.path.rpartition('/')[0]}/")]
            results += [result for result in [join(table, ImageNames(nearby), config)] if result]
        if results:
            joined.append(max(results, key=lambda result: (result.match.is_complete, result.match.num_images)))
    return join_by_keys(tables, joined)


def read_all_labels(
    joined: Sequence[Joined], targets: Sequence[str], config: Data
) -> tuple[list[TableLabels], list[tuple[str, ConfigError | DataError]]]:
    """Return the tables with labels, and the errors of others by path.

    The best table of the training images decides about the column. If a table of other images has the same column with
    mostly the same classes, it has its labels there, also if each class occurs only once. Next to labels of a table
    with names of files, those of a table with keys must have a better column.
    """
    results = [_try_reading(table, targets, config) for table in joined]
    labeled = [labels for labels in results if isinstance(labels, TableLabels) and len(labels.values)]
    best = max((labels for labels in labeled if labels.joined.table.role in ("", "train")),
               key=lambda labels: (labels.rank, len(labels.values)), default=None)
    for number, table in enumerate(joined):
        if best and (column := _shared_column(table, best)):
            labels = _try_reading(table, targets, config.model_copy(update={"label_column": column}))
            results[number] = replace(labels, rank=best.rank) if isinstance(labels, TableLabels) else labels
    highest = max((labels.rank for labels in labeled if not labels.joined.is_by_key), default=-1)
    kept = [(table, result) for table, result in zip(joined, results, strict=True)
            if not table.is_by_key or _rank_of(result) > highest]
    return ([result for table, result in kept if isinstance(result, TableLabels)
             and (len(result.values) or table.match.ambiguous)],
            [(table.path, result) for table, result in kept if isinstance(result, ConfigError | DataError)])


def _rank_of(labels: Reading) -> int:
    """Return the rank of labels or of the column that an error is about."""
    if isinstance(labels, TableLabels):
        return labels.rank
    return int(isinstance(labels, SeveralLabelsError) and labels.is_usual)


def _shared_column(table: Joined, best: TableLabels) -> str:
    """Return the column of a table of other images that has the classes of the best table; "" if there is none."""
    columns = table.table.find_columns(best.column)
    if not columns or not set(table.match.rows.values()).isdisjoint(best.joined.match.rows.values()):
        return ""
    keys = set(map(number_key, best.classes))
    values = set(map(number_key, table.table.rows[columns[0]]))
    may_have_one = table.table.role in ("", "train") and best.rank > 0  # such as a batch that is all ok
    return columns[0] if (len(values) > 1 or may_have_one) and 2 * len(values & keys) > len(values) else ""


def _try_reading(table: Joined, targets: Sequence[str], config: Data) -> Reading:
    try:
        return read_labels(table, targets, config)
    except (AmbiguousColumnError, DataError) as error:
        return error


def describe_unlabeled(
    tables: Sequence[Table], joined: Sequence[Joined], images: pd.DataFrame, config: Data
) -> list[str]:
    """Return why each of the tables has no labels of the images."""
    ids = {table.path: table.id_column for table in joined}
    return [_describe_columns(table, ids[table.path]) if table.path in ids else
            describe_unmatched(table, images, config) for table in tables]


def _describe_columns(table: Table, id_column: str) -> str:
    rows = table.rows.drop(columns=id_column)
    counts = format_list(f"{column} has {rows[column].nunique()}" for column in rows.columns)
    advice = ". If a column has the classes, set data.label_column to it." if counts else "it has only ids."
    return (f"{table.path} has no column of classes, with 2 to {len(rows) // 2} different values that are not "
            f"fractions, dates or sizes: {counts}{advice}")


def read_labels(joined: Joined, targets: Sequence[str], config: Data) -> TableLabels | None:
    """Return the labels of a table; None if no column has labels.

    Raises AmbiguousColumnError if several columns fit, DataError if images have several labels.
    """
    if joined.rival:
        raise AmbiguousColumnError(f"{joined.path}: {joined.id_column} and {joined.rival} name different images. Set "
                                   "data.id_column to the one whose images have the labels.")
    columns = [column for column in joined.table.rows.columns
               if column != joined.id_column and column.lower() != config.subset_column.lower()]
    if one_hot := [] if config.label_column else _one_hot_columns(joined.table.rows, columns, targets):
        values = _read_one_hot(joined, one_hot)
        rank = 2 if set(one_hot) <= set(targets) else 1
        has_images = _as_numbers(joined.table.rows[one_hot]).max() == 1
        classes, empty = (frozenset(has_images.index[has_images]), tuple(has_images.index[~has_images]))
        return TableLabels(joined, format_count(len(one_hot), "one-hot column"), values, rank, classes, empty)
    if config.label_column and not joined.table.find_columns(config.label_column):
        return None
    column, rank = _choose_column(joined.table, columns, targets, config.label_column)
    if not column:
        return None
    texts = joined.table.rows[column].map(class_name)
    suffix = ".0" if texts[texts != ""].str.fullmatch(_WHOLE).all() else ""
    values = joined.values(column).str.removesuffix(suffix)
    values = values[values != ""]
    _reject_several_labels(joined, column, values, is_usual=rank > 0)
    if not config.label_column and _are_tags(column, set(values)):
        raise DataError(f"{joined.path}: {column} has several tags for each image, such as {values.iloc[0]!r}. Images "
                        "with several labels are not supported. If the tags are one class, set data.label_column.")
    return TableLabels(joined, column, first_of_each(values), rank, frozenset(texts.str.removesuffix(suffix)) - {""})


def _one_hot_columns(rows: pd.DataFrame, columns: Sequence[str], targets: Sequence[str]) -> list[str]:
    """Return the columns of the targets, or those with 0 and 1 of which each row has one; [] if there are none.

    A column with 1 in each row, such as is_image, is not a class. A column that is called like label is preferred.
    """
    if len(targets) > 1 and set(targets) <= set(columns):
        return list(targets)
    if any(_may_be_label(rows[column], column, is_usual=True) for column in columns if _is_usual(column, targets)):
        return []
    binary = [column for column in columns if _is_binary(rows[column])]
    others = [column for column in binary if not (is_called_like_flag(column) or read_roles(column, set(rows[column])))]
    if not others or not _is_one_hot(rows[binary]):  # a class may be called train
        binary = others
    if not _is_one_hot(rows[binary]):
        varied = [column for column in binary if not (_as_numbers(rows[[column]]) == 1).all(axis=None)]
        binary = varied if len(varied) > 1 and _is_one_hot(rows[varied]) else binary
    has_others = any(column not in binary and not is_group_column(column) for column in columns)
    is_one_hot = _is_one_hot(rows[binary]) or not (has_others or targets)
    return binary if len(binary) > 1 and is_one_hot else []


def _is_usual(column: str, targets: Sequence[str]) -> bool:
    """Return True if a column is called like label, or like the only target."""
    is_target = [column.lower()] == [name.lower() for name in targets]
    return is_target or is_usual_label(column)


def _is_one_hot(rows: pd.DataFrame) -> bool:
    numbers = _as_numbers(rows)
    return bool(numbers.notna().all(axis=None) and (numbers.sum(axis=1) == 1).all())


def _is_binary(values: "pd.Series[str]") -> bool:
    distinct = {value.strip().lower() for value in values.unique()}
    return distinct != {""} and distinct <= _ONE_HOT.keys()


def _as_numbers(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({column: rows[column].str.strip().str.lower().map(_ONE_HOT) for column in rows.columns})


def _read_one_hot(joined: Joined, columns: Sequence[str]) -> "pd.Series[str]":
    rows = pd.DataFrame({column: joined.values(column) for column in columns})
    if not _is_one_hot(rows):
        raise DataError(f"{joined.path}: the columns {format_list(columns)} do not have exactly one 1 per row. "
                        "Images with several labels are not supported. If another column has the class, set "
                        "data.label_column.")
    return _as_numbers(rows).idxmax(axis=1).astype("object")


def _choose_column(table: Table, columns: Sequence[str], targets: Sequence[str], setting: str) -> tuple[str, int]:
    """Return the column of the labels and its rank; "" and 0 if there is none."""
    rows = table.rows
    if setting:
        return table.column(setting, "data.label_column"), 2
    if len(targets) == 1 and (matches := [column for column in columns if column.lower() == targets[0].lower()]):
        return matches[0], 2
    if len(targets) > 1:
        keys = set(map(class_key, targets))
        if matches := [column for column in columns if 1 < rows[column].nunique() <= len(keys)
                       and set(map(class_key, rows[column].unique())) <= keys]:
            return _only(table, matches), 2
    usual = [column for column in columns if _is_usual(column, targets) and rows[column].nunique() > 1]
    fitting = [column for column in columns if _may_be_label(rows[column], column, column in usual)]
    if fitting and usual and set(usual).isdisjoint(fitting):
        raise AmbiguousColumnError(
            f"{table.path}: the classes may be in {usual[0]}, which has {rows[usual[0]].nunique()} different values in "
            f"{len(rows)} rows, or in {fitting[0]}. Set data.label_column to one of the columns.")
    usual = [column for column in usual if column in fitting]
    if not usual and all(_is_measure(column, rows[column]) for column in fitting):
        return "", 0
    return (_only(table, usual or fitting), int(bool(usual))) if fitting else ("", 0)


def _may_be_label(values: "pd.Series[str]", column: str, is_usual: bool) -> bool:
    """Return True if a column has 2 to n/2 values that are neither fractions nor subsets nor groups, or has lists.

    One that is called like label may have more values, and whole numbers such as 1.0.
    """
    distinct = set(values)
    is_repeated = 1 < len(distinct) <= (len(values) - 1 if is_usual else len(values) / 2)
    if (is_repeated or NAME_OF_LABELS.search(column.lower())) and _lists(distinct, column):
        return True  # to be rejected
    is_flag = is_called_like_flag(column) and not is_usual and _is_binary(values)
    if not is_repeated or is_flag or is_group_column(column):
        return False
    fraction = r"-?[0-9]*\.(?!0$)[0-9]+" if is_usual else r"-?[0-9]*\.[0-9]+"
    return not all(re.fullmatch(fraction, value) for value in distinct) and not (
        read_roles(column, distinct) or has_unknown_subsets(column, distinct))


def _is_measure(column: str, values: "pd.Series[str]") -> bool:
    """Return True for dates, and for numbers in a column called like width."""
    distinct = values.unique()
    are_numbers = bool(_MEASURE.fullmatch(column.lower())) and all(map(_NUMBER.fullmatch, distinct))
    return are_numbers or all(map(_DATE.fullmatch, distinct))


def _lists(distinct: set[str], column: str) -> list[str]:
    """Return the values with several words if all are lists: of other values, or of numbers in a column of labels.

    A bar next to another value separates labels in any case.
    """
    if not LABEL_SEPARATOR.search("\n".join(distinct)):
        return []
    singles = {value for value in distinct if not LABEL_SEPARATOR.search(value)}
    lists = sorted(distinct - singles)[:_NUM_CHECKED]
    may_have_numbers = NAME_OF_LABELS.search(column.lower())
    parts = [set(LABEL_SEPARATOR.split(value)) for value in lists]
    are_lists = all(names <= singles or (may_have_numbers and all(map(str.isdecimal, names))) for names in parts)
    if are_lists:
        return lists
    has_bars = not singles and all("|" in value for value in lists)
    return [value for value in lists if "|" in value and (has_bars or not singles.isdisjoint(value.split("|")))]


def _are_tags(column: str, distinct: set[str]) -> bool:
    """Return True for a column called like tags in which each word is part of two values on average."""
    parts = [set(LABEL_SEPARATOR.split(value)) for value in distinct]
    has_many = sum(map(len, parts)) >= 2 * len(set[str]().union(*parts))
    return bool(_NAME_OF_TAGS.search(column.lower())) and has_many and max(map(len, parts)) > 1


def _only(table: Table, columns: Sequence[str]) -> str:
    """Return the column; of columns with the same classes, the first one with names."""
    rows = table.rows
    first = next((column for column in columns if not rows[column].str.fullmatch("[0-9]+").all()), columns[0])
    if not all(are_same_classes(rows[first], rows[column]) for column in columns):
        raise AmbiguousColumnError(f"{table.path}: the columns {format_list(columns)} may have the classes. Set "
                                   "data.label_column to one of them.")
    return first


def are_same_classes(first: "pd.Series[str]", second: "pd.Series[str]") -> bool:
    """Return True if each value of one column has one value of the other, and the reverse."""
    num_pairs = len(pd.DataFrame({"first": first, "second": second}).drop_duplicates())
    return num_pairs == first.nunique() == second.nunique()


def _reject_several_labels(joined: Joined, column: str, values: "pd.Series[str]", *, is_usual: bool) -> None:
    pairs = pd.DataFrame({"row": values.index, "label": values.to_numpy()}).drop_duplicates()
    repeated = pairs.loc[pairs["row"].duplicated(), "row"]
    if len(repeated):
        image_id = min(key for key, row in joined.match.rows.items() if row == repeated.iloc[0])
        raise SeveralLabelsError(
            f"{joined.path}: {format_count(len(repeated), 'image has', 'images have')} several labels in {column} "
            f"(first: {image_id!r}). Images with several labels are not supported: keep one {joined.table.row_noun} "
            "per image, or set data.label_table to another table.", is_usual=is_usual)
    if lists := _lists(set(values), column):
        raise DataError(f"{joined.path}: {column} has lists of labels, such as {lists[0]!r}. Images with several "
                        "labels are not supported. If another column has the class, set data.label_column.")


def _may_be_unranked(candidate: TableLabels, train: Sequence[TableLabels], has_ranks: bool) -> bool:
    """Return True if a column that is not called like label may have the labels; ``has_ranks`` if another is.

    A table of another subset has them in the training images' column, or its classes in a column that they lack. Flags
    such as 0 and 1 may mean anything else.
    """
    if candidate.role == "train" or not train:
        return not has_ranks
    columns = {column for table in train for column in table.joined.table.rows.columns}
    label_columns = {column for table in train for column in table.columns}
    classes = frozenset[str]().union(*(table.classes for table in train))
    are_flags = {name.lower() for name in classes} <= FLAGS.keys()
    return candidate.column in label_columns or (
        candidate.classes <= classes and not are_flags and candidate.column not in columns
        and label_columns.isdisjoint(candidate.joined.table.rows.columns))


def _require_no_versions(tables: Sequence[TableLabels]) -> None:
    """Raise ConfigError if most ids of two tables differ only in the extension, and the labels are the same.

    Tables in folders such as batch1 and batch2 have different images.
    """
    if all(is_part(table.joined.path.rpartition("/")[0]) for table in tables):
        return
    rows = [table.joined.match.rows for table in tables]
    labels = [{image_stem(name): table.values.get(row) for name, row in table.joined.match.rows.items()}
              for table in tables]
    for number in range(1, len(tables)):
        num_same = len(labels[0].items() & labels[number].items())
        is_version = num_same == len(labels[0].keys() & labels[number].keys()) and 2 * num_same > len(labels[0])
        if is_version and rows[0].keys().isdisjoint(rows[number]):
            paths = f"{tables[0].joined.path} and {tables[number].joined.path}"
            raise ConfigError(f"Most ids of {paths} differ only in the extension (first: {min(rows[0])}): these may be "
                              "versions of the same images. Set data.train_folder to the folder of one version.")


def combine(candidates: Sequence[TableLabels]) -> list[TableLabels]:
    """Return the tables that give the labels: for each subset in a table's name, those with the best column.

    Raises ConfigError if two tables of a subset fit equally well and have different labels.
    """
    candidates = [candidate for candidate in candidates if candidate.role != "predict"] or candidates
    train = [candidate for candidate in candidates if candidate.role == "train"]
    has_ranks = any(candidate.rank for candidate in candidates)
    candidates = [candidate for candidate in candidates
                  if candidate.rank or _may_be_unranked(candidate, train, has_ranks)]
    result = []
    for role in dict.fromkeys(candidate.role for candidate in candidates):
        fitting = [candidate for candidate in candidates if candidate.role == role]
        rank = max(candidate.rank for candidate in fitting)
        first, *others = [candidate for candidate in fitting if candidate.rank == rank]
        others = [other for other in others if not first.values.equals(other.values)]
        indices = [candidate.values.index for candidate in (first, *others)]
        are_parts = {other.column.lower() for other in others} == {first.column.lower()} and not indices[0].append(
            indices[1:]).has_duplicates  # such as labels_2019.csv and labels_2020.csv
        if others and not are_parts:
            paths = ", ".join(sorted(candidate.joined.path for candidate in (first, *others)))
            raise ConfigError(f"Several tables may have the labels: {paths}. Set data.label_table to one of them.")
        _require_no_versions([first, *others])
        result += [first, *others]
    return result
