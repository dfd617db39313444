"""Findings about label tables: how they differ from the class folders, and rows and images that do not match."""

import re
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from carclf.dataset.detection.given_subsets import SUBSET_COLUMNS, read_roles
from carclf.dataset.detection.groups import is_group_column
from carclf.dataset.detection.ids import Joined, first_of_each
from carclf.dataset.detection.label_tables import TableLabels, are_same_classes
from carclf.dataset.detection.result import number_key
from carclf.dataset.detection.subset_lists import ID_COLUMN, LABEL_COLUMN, is_split_file
from carclf.dataset.detection.subsets import role_of
from carclf.dataset.detection.tables import Table, is_usual_label
from carclf.dataset.findings import Finding, describe_missing_images, format_labels
from carclf.errors import ConfigError, DataError
from carclf.formatting import format_count, format_list

MIN_LISTED, MIN_LISTED_FRACTION = 3, 0.05  # images of a list that may be a subset


def compare(
    images: pd.DataFrame, folders: "pd.Series[str]", labels: "pd.Series[str]", tables: Sequence[TableLabels]
) -> list[Finding]:
    """Return the differences between the folders' labels and the tables'."""
    values = first_of_each(pd.concat([table.values for table in tables]))
    both = labels.index[(labels != "") & labels.index.isin(values.index)]
    differs = both[labels[both] != values[both]]
    findings = [Finding("label_mismatch", path, f"{tables[0].joined.path} has another class. The folder's class is "
                        "used.") for path in images.loc[differs, "path"]]
    expected = set(values).union(*(table.classes for table in tables))
    findings += _compare_classes(images, folders, labels, expected)
    for table in tables:
        findings += find_missing(table, 1.0)
    return findings + find_unlisted(images, values, "The classes of their folders are used unchecked.")


def _compare_classes(
    images: pd.DataFrame, folders: "pd.Series[str]", labels: "pd.Series[str]", expected: set[str]
) -> list[Finding]:
    """Return the folders that are the same class, those that are no class of the table, and classes without images."""
    folders_by_key: dict[str, list[str]] = {}
    for name in sorted(set(folders) - {""}):
        folders_by_key.setdefault(number_key(name), []).append(name)
    num_expected = Counter(map(number_key, expected))
    ambiguous = [names for key, names in sorted(folders_by_key.items()) if len(names) > max(1, num_expected[key])]
    findings = [Finding("ambiguous_class", names[0], (
        f"The folders {', '.join(names)} are the same class of the table. Merge them if they are the same class, or "
        "rename one.")) for names in ambiguous]
    for label in sorted(set(labels) - expected.union(*ambiguous) - {""}):
        paths = images.loc[labels.index[labels == label], "path"]
        findings.append(Finding("unknown_class", paths.iloc[0], (
            f"{format_count(len(paths), 'image is', 'images are')} in class '{label}' (first: {paths.iloc[0]}), which "
            f"the table does not have. Its classes are {format_labels(expected)}. Move or remove what is in this "
            f"class{', or set data.test_folder to its folder' if role_of(label) == 'test' else ''}.")))
    return findings + [Finding("empty_class", label, f"Class '{label}' of the table has no images. Add images of it.")
                       for label in sorted(expected - set(labels))]


def find_tables_of_parts(tables: Sequence[Table], classes: set[str], source: str) -> list[Finding]:
    """Return the tables about numbered classes, such as patient_01, that may have the classes of the images.

    They have a row for most of the classes, and a column with fewer values, such as diagnosis. Numbers alone, such as
    12, are often classes: then a column must be called like patient or like label. ``source`` is where the labels are:
    folders or file_names, else there are none of these tables.
    """
    if source not in ("folders", "file_names") or not all(re.search("[0-9]", name) for name in classes - {""}):
        return []
    are_numbers = all(map(str.isdecimal, classes - {""}))
    keys = set(map(number_key, classes))
    findings = []
    for table in tables:
        rows = table.rows
        named = [column for column in rows.columns if 2 * len(_last_parts(rows[column]) & keys) > len(keys)]
        others = [column for column in rows.columns if column not in named and 1 < rows[column].nunique() < len(rows)]
        is_usual = any(map(is_group_column, named)) or any(map(is_usual_label, others))
        if named and others and (is_usual or not are_numbers):
            findings.append(Finding("unmatched_label_table", table.path, (
                f"The table has rows about the classes, such as {rows[named[0]].iloc[0]}, and is not used. If the "
                f"classes of the images are in a column of it, such as {others[-1]}, add a table with a row for each "
                "image.")))
    return findings


def _last_parts(values: "pd.Series[str]") -> set[str]:
    return {number_key(value.rstrip("/").rpartition("/")[2]) for value in values}


def find_unused_lists(lists: Sequence[Table], joined: Sequence[Joined], *, has_sample: bool) -> list[Finding]:
    """Return the lists of subsets that name no images. Next to a sample submission, test.txt is about its images."""
    used = {table.path for table in joined}
    return [Finding("unused_subsets", table.path, (
        f"The list is not used: less than half of its {format_count(len(table.rows), 'line')} are images of the source "
        f"(first: {table.rows[ID_COLUMN].iloc[0]!r}).")) for table in lists
        if table.path not in used and not (has_sample and table.role in ("test", "predict"))]


def check_lists(joined: Sequence[Joined], labels: "pd.Series[str]", *, are_prefixes: bool) -> list[Finding]:
    """Return a finding about the lists of subsets that may have other classes than the ``labels``.

    Raises ConfigError if the labels are prefixes of names: nothing else supports these.
    """
    others = {}
    for table in joined:
        values = table.first_values(LABEL_COLUMN) if LABEL_COLUMN in table.table.rows else pd.Series(dtype="object")
        values = values.loc[values.index.intersection(labels.index)]
        are_classes = values.nunique() > 1 and values.value_counts().min() > 1
        if are_classes and not are_same_classes(labels[values.index], values):
            others[table.path] = values.max()
    if not others:
        return []
    path, label = next(iter(others.items()))
    text = (f"{format_list(others)} may have the labels, such as {label}, which are not the classes, such as "
            f"{labels.max()}. If so, convert them to a CSV table with a column of file names and one of classes")
    if are_prefixes:
        raise ConfigError(f"{text}. Otherwise, set data.label_source to file_names.")
    return [Finding("unmatched_label_table", path, f"{text}, and set data.label_table to it.")]


def find_unread_splits(paths: Sequence[str], lists: Sequence[Table]) -> list[Finding]:
    """Return findings about text files such as train_test_split.txt whose lines do not start with images."""
    used = {table.path for table in lists}
    return [Finding("unused_subsets", path, (
        "The file is not used: its lines do not have the name of an image and a subset. If it gives the subsets, "
        "convert it to a CSV table with a column of file names and a column 'split' with train, val and test."))
        for path in paths if path not in used and is_split_file(path)]


def find_other_lists(joined: Sequence[Joined], num_images: int) -> list[Finding]:
    """Return findings about text files that list some of the images, but do not have the name of a subset."""
    return [Finding("unused_subsets", table.path, (
        f"The file lists {format_count(table.match.num_images, 'image')} and is not used. If they are a subset, call "
        "the file train.txt, val.txt or test.txt.")) for table in joined
        if max(MIN_LISTED, MIN_LISTED_FRACTION * num_images) <= table.match.num_images < num_images]


def find_unjoined(tables: Sequence[Table], joined: Sequence[Joined], num_images: int) -> list[Finding]:
    """Return findings about tables with a column of subsets and enough rows, but without ids of the images."""
    used = {table.path for table in joined}
    unjoined = [table for table in tables if table.path not in used and 2 * len(table.rows) > num_images]
    columns = {table.path: column for table in unjoined for column in table.rows.columns
               if column.lower() in SUBSET_COLUMNS and read_roles(column, set(table.rows[column]))}
    return [Finding("unused_subsets", path, (
        f"The column {column} has subsets, but no other column has ids of the images, so it is not used. Add a column "
        "of file names.")) for path, column in columns.items()]


def name_as_in_training(labels: "pd.Series[str]", sources: "pd.Series[str]") -> "pd.Series[str]":
    """Return the labels, in the training images' case and digits: Cat and 01 of a test table are their cat and 1."""
    is_train = sources == "train"
    classes = set(labels[is_train])
    num_by_key = Counter(map(number_key, classes))
    names = {number_key(name): name for name in classes if num_by_key[number_key(name)] == 1}
    return labels.map(lambda label: label if label in classes else names.get(number_key(label), label))


def find_missing(table: TableLabels, max_missing: float) -> list[Finding]:
    """Return a finding about the ids without an image. Raises DataError if they are more than this fraction."""
    match, path = table.joined.match, table.joined.path
    if not match.missing:
        return []
    noun = table.joined.table.row_noun
    num_ids = len(match.missing) + len(match.rows)
    problem = describe_missing_images(match.missing, num_ids)
    fraction = len(match.missing) / num_ids
    if fraction > max_missing:
        raise DataError(f"{path}: {problem} The ids were compared by {match.form}. Add the images, or set "
                        f"data.max_missing to {fraction + 0.0005:.3f} to ignore these {noun}s.")
    return [Finding("unmatched_label_table", path, f"{problem} The {noun}s without an image are not used.")]


def find_unlisted(images: pd.DataFrame, labels: "pd.Series[str]", consequence: str) -> list[Finding]:
    """Return a finding about the training images without a label; ``consequence`` is a sentence."""
    paths = images.loc[~images.index.isin(labels.index) & (images["role"] == "train"), "path"]
    return [Finding("unmatched_label_table", paths.iloc[0], (
        f"{format_count(len(paths), 'training image has', 'training images have')} no label in the table (first: "
        f"{paths.iloc[0]}). {consequence}"))
    ] if len(paths) else []
