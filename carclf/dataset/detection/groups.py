"""The groups that no split may divide, such as patients or drivers: a column, or a part of the ids."""

import re
from collections.abc import Sequence

import pandas as pd

from carclf.dataset.detection.ids import Joined
from carclf.dataset.detection.result import Detection, class_key
from carclf.errors import ConfigError
from carclf.formatting import format_count

MIN_CLASSES = 0.5  # of the images, whose folder is their class: siteA/ok and siteB/ok are no groups
_NAME = re.compile("(?:(?:.+_)?(?:patient|subject|driver)|person|user|location|site|sequence|seq|session|group)"
                   "(?:_?(?:id|no|nr|num|number|code|key|name))?")  # of a column, in lower case, with _ between words


def find_groups(images: pd.DataFrame, joined: Sequence[Joined], setting: str) -> tuple["pd.Series[str]", Detection]:
    """Return the group of each labeled image, "" if unknown, and the detection. ``setting`` is ``data.group_column``.

    ``images`` have the column ``label``; ``joined`` are the tables with rows about them. Columns of the same name in
    several tables are one column. Raises ConfigError if several columns fit or have different groups of an image, if
    several images have an id of a table with groups, or if the setting is none of the columns or has no value.
    """
    none = pd.Series("", images.index, dtype="object")
    if setting == "none":
        return none, Detection("groups", "none", "data.group_column")
    columns = _group_columns(images, joined, setting)
    if setting and not columns:
        raise ConfigError(f"data.group_column is {setting!r}, which is not a column of a table with rows about the "
                          "labeled images. Set it to one of their columns, or to none.")
    useful = {name: values for name, values in columns.items() if setting or _is_useful(values, images["label"])}
    if len(useful) > 1:
        raise ConfigError(f"Several columns may be groups: {', '.join(useful)}. Set data.group_column to one of them, "
                          "or to none.")
    for name, values in useful.items():
        if (values == "").all():
            raise ConfigError(f"data.group_column is {setting!r}, but {name} has no value for a labeled image. Fill in "
                              "the column, or set data.group_column to another column or to none.")
        return values, Detection("groups", name, format_count(values[values != ""].nunique(), "group"))
    return _groups_of_names(images, joined) or (none, Detection("groups", "none", "no column and no part of the ids"))


def _group_columns(images: pd.DataFrame, joined: Sequence[Joined], setting: str) -> dict[str, "pd.Series[str]"]:
    """Return the group of each image in the columns that may be groups, by the names of the column and its tables.

    Tables of test images are read last: their ids may be those of training images, too.
    """
    paths: dict[str, list[str]] = {}
    columns: dict[str, pd.Series[str]] = {}
    for table in sorted(joined, key=_is_test):
        for column in table.table.rows.columns:
            is_named = column.lower() == setting.lower() if setting else is_group_column(column)
            if is_named and column != table.id_column:
                values = _read_values(table, column).reindex(images.index, fill_value="")
                earlier = columns.get(column, values)
                if not _is_test(table) and ((earlier != values) & (earlier != "") & (values != "")).any():
                    raise ConfigError(f"{column} has different groups of an image in {', '.join(paths[column])} and "
                                      f"{table.path}. Correct one of them, or set data.group_column to another column "
                                      "or to none.")
                columns[column] = earlier.where(earlier != "", values)
                paths.setdefault(column, []).append(table.path)
    return {f"{column} of {', '.join(paths[column])}": values for column, values in columns.items()}


def _is_test(table: Joined) -> bool:
    return table.table.role in ("test", "predict")


def _read_values(table: Joined, column: str) -> "pd.Series[str]":
    """Return the groups by row label. Raises ConfigError if several images have an id and the groups may be useful."""
    if table.match.ambiguous and not _is_test(table) and 1 < table.table.rows[column].nunique() < len(table.table.rows):
        raise ConfigError(f"{table.path}: {column} may be groups, but several images have an id (such as "
                          f"{min(table.match.ambiguous)!r}, by {table.match.form}). Write the ids as paths in the "
                          "source, or set data.group_column to none.")
    return table.first_values(column)


def is_group_column(column: str) -> bool:
    """Return True if a column is called like a group or its id, such as PatientID, seq_id or study_patient_id."""
    return bool(_NAME.fullmatch("_".join(re.findall(r"[A-Z]?[a-z]+|[A-Z]+", column)).lower()))


def _is_useful(groups: "pd.Series[str]", labels: "pd.Series[str]") -> bool:
    """Return True if there are several groups, some with several images, and they are not just the classes."""
    filled = groups[groups != ""]
    num = filled.nunique()
    num_pairs = len(pd.DataFrame({"group": filled, "label": labels[filled.index]}).drop_duplicates())
    return 1 < num < len(filled) and not num_pairs == num == labels.nunique()


def _groups_of_names(
    images: pd.DataFrame, joined: Sequence[Joined]
) -> tuple["pd.Series[str]", Detection] | None:
    """Return groups from 10_left and 10_right, or from the folders of ids such as scene/0001; deeper ones are paths."""
    names = images["path"].str.split("/").str[-1].str.extract(r"^(.+)_(?:left|right)\b", flags=re.IGNORECASE)[0]
    if names.notna().all() and len(names) and _is_useful(names, images["label"]):
        return names, Detection("groups", "file name before _left and _right", format_count(names.nunique(), "group"))
    has_paths = any(image_id.count("/") == 1 for table in joined for image_id in list(table.match.rows)[:1])
    if has_paths and not _are_classes(images) and _is_useful(images["subfolder"], images["label"]):
        num_folders = format_count(images["subfolder"].nunique(), "folder")
        return images["subfolder"], Detection("groups", "folder", f"the ids have {num_folders}")
    return None


def _are_classes(images: pd.DataFrame) -> bool:
    """Return True if most images are in a folder called like their class."""
    folders = images["subfolder"].str.split("/").str[-1]
    return bool((folders.map(class_key) == images["label"].map(class_key)).mean() >= MIN_CLASSES)
