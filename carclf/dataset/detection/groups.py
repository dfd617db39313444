"""The groups that no split may divide, such as patients or drivers: a column, or a part of the ids."""

import re
from collections.abc import Sequence

import pandas as pd

from carclf.dataset.detection.ids import Joined
from carclf.dataset.detection.result import Detection
from carclf.errors import ConfigError
from carclf.formatting import format_count

_WORDS = {"patient", "patientid", "subject", "subjectid", "driver", "person", "user", "location", "site", "sequence",
          "seq", "group", "session"}


def find_groups(images: pd.DataFrame, joined: Sequence[Joined], setting: str) -> tuple["pd.Series[str]", Detection]:
    """Return the group of each labeled image, "" if unknown, and the detection. ``setting`` is ``data.group_column``.

    ``images`` have the column ``label``; ``joined`` are the tables with rows about them. Raises ConfigError if several
    columns fit, or the setting is none of the columns.
    """
    none = pd.Series("", images.index, dtype="object")
    if setting == "none":
        return none, Detection("groups", "none", "data.group_column")
    columns = {}
    for table in joined:
        for column in table.table.rows.columns:
            is_named = column.lower() == setting.lower() if setting else is_group_column(column)
            if is_named and column != table.id_column:
                columns[f"{column} of {table.path}"] = table.first_values(column).reindex(images.index, fill_value="")
    if setting and not columns:
        raise ConfigError(f"data.group_column is {setting!r}, which is not a column of a table with rows about the "
                          "labeled images. Set it to one of their columns, or to none.")
    useful = {name: values for name, values in columns.items() if setting or _is_useful(values, images["label"])}
    if len(useful) > 1:
        raise ConfigError(f"Several columns may be groups: {', '.join(useful)}. Set data.group_column to one of them, "
                          "or to none.")
    for name, values in useful.items():
        return values, Detection("groups", name, format_count(values[values != ""].nunique(), "group"))
    return _groups_of_names(images, joined) or (none, Detection("groups", "none", "no column and no part of the ids"))


def is_group_column(column: str) -> bool:
    """Return True if a word of a column's name is that of a group, such as PatientID or seq_id."""
    return any(word.lower() in _WORDS for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", column))


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
    if has_paths and _is_useful(images["subfolder"], images["label"]):
        num_folders = format_count(images["subfolder"].nunique(), "folder")
        return images["subfolder"], Detection("groups", "folder", f"the ids have {num_folders}")
    return None
