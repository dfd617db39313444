"""Which subset each labeled image belongs to: by its folder, and by tables' names and columns such as split."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import pandas as pd

from carclf.dataset.detection.groups import is_group_column
from carclf.dataset.detection.ids import Joined
from carclf.dataset.detection.result import Detection
from carclf.dataset.detection.subsets import role_of
from carclf.dataset.findings import Finding, describe_missing_images
from carclf.errors import ConfigError
from carclf.formatting import format_count, format_list

FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True, "f": False, "t": True,
         "no": False, "yes": True, "n": False, "y": True}
# The source of each role. Of several roles of an image, the last one here counts; REST is anything but training.
REST = "rest"
_SOURCE_BY_ROLE = {"": "train", "train": "train", REST: "holdout", "val": "val", "test": "holdout",
                   "predict": "holdout"}
_NUMBERED = {"split", "splits", "data_split", "subset", "partition"}
SUBSET_COLUMNS = _NUMBERED | {"phase", "usage", "set", "dataset"}
_FLAG_COLUMN = re.compile("((is|in)_?)?(train|training|val|valid|validation|test|testing)"
                          "(_?(image|img|sample|set))?")
_LONE_WORDS = {"train", "training", "val", "validation", "test", "testing"}
_MAX_SUBSETS = 10
MAX_CONTRADICTORY = 0.5  # fraction of the images with different subsets in several rows
# What a name of a subset may contain besides train, val or test.
_OTHER_WORDS = {"data", "dataset", "file", "files", "id", "ids", "image", "images", "img", "imgs", "list", "name",
                "names", "paths", "private", "public", "sample", "samples", "set", "split", "subset"}


@dataclass(frozen=True)
class Subsets:
    """The source of each labeled image by row label (train, val or holdout), and what tables showed.

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
    is_flag = is_called_like_flag(column) and column.lower() != "valid" and len(values) > 1  # valid may mean usable
    if is_flag and (flags := _read_flags(column, values)):
        return flags
    if len(values) > _MAX_SUBSETS or is_group_column(column) or any("/" in value for value in values):
        return {}
    roles = {value: role_of(value) for value in values}
    is_split = column.lower() in SUBSET_COLUMNS and any(roles.values())
    are_names = len(values) > 1 and all(map(is_subset_name, values))
    return roles if is_split or are_names else {}


def is_subset_name(text: str) -> bool:
    """Return True for train, val_set or PublicTest, and False for a class such as test bench."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", text)]
    return bool(role_of(text)) and all(role_of(word) or word in _OTHER_WORDS for word in words)


def is_called_like_flag(column: str) -> bool:
    """Return True if a column is called like is_valid or test, for images that are in this subset."""
    return bool(_FLAG_COLUMN.fullmatch(column.lower()))


def has_unknown_subsets(column: str, values: Collection[str]) -> bool:
    """Return True if a column that is called like split has numbers or words of unknown meaning."""
    return column.lower() in _NUMBERED and 1 < len(values) <= _MAX_SUBSETS and not any(map(role_of, values))


def _read_flags(column: str, values: Collection[str]) -> dict[str, str]:
    """Return the role of true and of false or blank in a column with the name of a role; {} for other values."""
    role = role_of(re.sub("^(is|in)_?", "", column.lower()))
    if not role or not {value.lower() for value in values} <= FLAGS.keys() | {""}:
        return {}
    rest = REST if role == "train" else "train"
    return {value: role if FLAGS.get(value.lower(), False) else rest for value in values}


def find_subsets(
    labeled: pd.DataFrame, joined: Sequence[Joined], label_columns: Collection[tuple[str, str]], setting: str
) -> Subsets:
    """Return the subsets of the ``labeled`` images, which have the column ``role`` of their folders.

    Of several roles of an image, test counts before validation, and validation before training. ``label_columns`` are
    paths of tables and columns that have the labels, ``setting`` is ``data.subset_column``. Raises ConfigError if a
    column has an unknown value, ids are ambiguous, the setting is none of the columns, or no training image is left.
    """
    columns = list(_columns(joined, label_columns, setting))
    if setting not in ("", "none") and not columns:
        raise ConfigError(f"data.subset_column is {setting!r}, which is not a column with train, val or test of "
                          "a table with rows about the labeled images. Set it to one of their columns, or to none.")
    named = [] if setting == "none" else list(_named_tables(
        labeled, joined, {path for path, _ in label_columns}, {table.path for table, *_ in columns}))
    by_name = [(f"{table.path} has", roles) for table, roles in named]
    by_column = [(f"{column} of {table.path} has", roles) for table, column, roles in columns]
    given = by_name + by_column
    roles_of_all = _last_role(pd.concat([labeled["role"], *(roles for _, roles in given)]))
    sources = roles_of_all.loc[labeled.index].map(_SOURCE_BY_ROLE)
    if given and not (sources == "train").any():
        raise ConfigError(f"No image is left for training: {given[-1][0]} {_describe(given[-1][1])}. Correct it, or "
                          "set data.subset_column to another column or to none.")
    unlabeled = labeled.index[:0]
    for _, roles in given:
        unlabeled = unlabeled.union(roles.index[roles.isin(["test", "predict"])].difference(labeled.index))
    detections = [Detection("subsets", ", ".join(sorted(set(roles.replace(REST, "test")))),
                            f"{origin} {_describe(roles)}") for origin, roles in given]
    subset_tables = {id(table): table for table in [*(table for table, *_ in columns), *(table for table, _ in named)]}
    missing = [_missing_finding(table) for table in subset_tables.values()
               if table.match.missing and table.path not in {path for path, _ in label_columns}]
    used = {path for path, _ in label_columns} | {table.path for table, *_ in columns}
    named_ids = {id(table) for table, _ in named}
    unused = [table for table in joined if table.path not in used and id(table) not in named_ids]
    overlaps = [] if setting == "none" else _find_overlaps(unused, _train_lists(labeled, joined), labeled)
    findings = [*_find_unknown(joined, label_columns, setting), *overlaps, *missing]
    return Subsets(sources, unlabeled, detections, findings)


def _missing_finding(table: Joined) -> Finding:
    match = table.match
    sentence = describe_missing_images(match.missing, len(match.missing) + len(match.rows))
    return Finding("unused_subsets", table.path, (
        f"{sentence} Images that are meant may be in another subset now: correct the names."))


def _last_role(roles: "pd.Series[str]") -> "pd.Series[str]":
    """Return the role of each image: of several, the last one in the order of _SOURCE_BY_ROLE."""
    order = list(_SOURCE_BY_ROLE)
    return roles.map(order.index).groupby(level=0).max().map(lambda rank: order[rank])


def _describe(roles: "pd.Series[str]") -> str:
    sizes = roles.replace(REST, "test").value_counts().sort_index()
    return ", ".join(format_count(num, f"{role} image") for role, num in sizes.items())


def _named_tables(
    labeled: pd.DataFrame, joined: Sequence[Joined], label_paths: Collection[str], with_column: Collection[str]
) -> Iterator[tuple[Joined, "pd.Series[str]"]]:
    """Yield the tables whose names are subsets, and the roles of their images; not those with a column of subsets.

    They have the labels; or they are called like val.csv, or are next to a table such as train.csv, and list other
    images than that and not all.
    """
    train = _train_lists(labeled, joined)
    train_rows = {row for rows in train.values() for row in rows}
    for table in joined:
        role, rows = table.table.role, set(table.match.rows.values())
        if role not in ("val", "test") or table.path in with_column:
            continue
        stem = PurePosixPath(table.path).stem
        is_sure = bool(train) or stem.lower() == "valid" or (
            is_subset_name(stem) and "valid" not in stem.lower())  # valid_images may mean usable ones
        is_list = is_sure and train_rows.isdisjoint(rows) and not rows >= set(labeled.index)
        if table.path not in label_paths and not is_list:
            continue
        _require_distinct(table, "it")
        yield table, pd.Series(role, sorted(rows), dtype="object")


def _train_lists(labeled: pd.DataFrame, joined: Sequence[Joined]) -> dict[str, set[int]]:
    """Return the images by path of each table such as train.csv that lists some of them.

    One of all images, such as train_metadata.csv, has no subsets; trainval.txt next to train.txt has both.
    """
    rows = {table.path: set(table.match.rows.values()) for table in joined if table.table.role == "train"}
    lists = {path: listed for path, listed in rows.items() if not listed >= set(labeled.index)}
    return {path: listed for path, listed in lists.items() if "trainval" not in path.lower()} or lists


def _find_overlaps(
    unused: Sequence[Joined], train: Mapping[str, set[int]], labeled: pd.DataFrame
) -> list[Finding]:
    """Return a finding if unused tables such as test2.csv list images of a table such as train1.csv too."""
    lists = {table.path: set(table.match.rows.values()) for table in unused if table.table.role in ("val", "test")}
    overlaps = {other: path for other, rows in lists.items() for path, listed in train.items()
                if not rows >= set(labeled.index) and not listed.isdisjoint(rows)}
    if not overlaps:
        return []
    first, path = next(iter(overlaps.items()))
    return [Finding("unused_subsets", first, (
        f"Not used, because {path} and others list the same images: {format_list(overlaps)}. If these are the lists of "
        "several splits, keep those of one."))]


def _columns(
    joined: Sequence[Joined], label_columns: Collection[tuple[str, str]], setting: str
) -> Iterator[tuple[Joined, str, "pd.Series[str]"]]:
    """Yield the tables and columns that are about subsets, and the roles of their images.

    Raise ConfigError for columns of different splits, such as split_1 and split_2.
    """
    first: tuple[str, pd.Series[str]] | None = None  # column that is not a flag, and its roles
    for table, column in _other_columns(joined, label_columns, setting):
        if role_by_value := _column_roles(table, column, setting):
            _require_distinct(table, f"the column {column}")
            roles = table.values(column).str.strip().map(role_by_value)
            _require_single_roles(table, column, roles)
            roles = _last_role(roles)
            if not is_called_like_flag(column):
                name = f"{column} of {table.path}"
                other, roles_of_other = first = first or (name, roles)
                both = roles.index.intersection(roles_of_other.index)
                if not roles[both].equals(roles_of_other[both]):
                    raise ConfigError(f"{other} and {name} are different splits. Set data.subset_column to the column "
                                      "that counts, or to none. Remove tables of other splits.")
            yield table, column, roles


def _require_single_roles(table: Joined, column: str, roles: "pd.Series[str]") -> None:
    """Raise ConfigError if rows give most images several subsets, such as those of several folds."""
    num_roles = roles.groupby(level=0).nunique()
    if (num_roles > 1).mean() > MAX_CONTRADICTORY:
        count = format_count(int((num_roles > 1).sum()), "image", "images")
        raise ConfigError(f"{table.path}: {column} has several subsets for {count}, such as those of several folds. "
                          "Keep the rows of one split, or set data.subset_column to another column or to none.")


def _other_columns(
    joined: Sequence[Joined], label_columns: Collection[tuple[str, str]], setting: str
) -> Iterator[tuple[Joined, str]]:
    for table in joined if setting != "none" else []:
        for column in table.table.rows.columns:
            if column != table.id_column and (table.path, column) not in label_columns:
                yield table, column


def _require_distinct(table: Joined, subject: str) -> None:
    if table.match.ambiguous:
        raise ConfigError(f"{table.path}: {table.match.ambiguous[0]!r} names several images, so {subject} does not "
                          "give their subsets. Write the ids as paths in the source, or set data.subset_column to "
                          "none.")


def _find_unknown(
    joined: Sequence[Joined], label_columns: Collection[tuple[str, str]], setting: str
) -> Iterator[Finding]:
    for table, column in _other_columns(joined, label_columns, setting):
        values = sorted(table.table.rows[column].str.strip().unique())
        if column.lower() != setting.lower() and has_unknown_subsets(column, values):
            yield Finding("unused_subsets", table.path, (
                f"The column {column} has values of unknown meaning, {format_list(values)}. It is not used. If they "
                "are subsets, write train, val and test instead."))


def _is_lone_word(table: Joined, column: str, values: Collection[str]) -> bool:
    """Return True for flags in a column that is called train or test, without another column of flags of a subset."""
    others = [name for name in table.table.rows.columns if name != column and is_called_like_flag(name)]
    return column.lower() in _LONE_WORDS and not others and bool(_read_flags(column, values))


def _column_roles(table: Joined, column: str, setting: str) -> dict[str, str]:
    values = table.table.rows[column].str.strip().unique()
    if not setting:
        is_next_to_flag = column.lower() == "valid" and not {"train", "test"}.isdisjoint(
            map(str.lower, table.table.rows.columns))
        roles = read_roles("is_valid" if is_next_to_flag else column, values)
        if roles and _is_lone_word(table, column, values):
            raise ConfigError(f"{table.path}: the column {column} has flags, which may mean the subset {column} or "
                              f"something else. Set data.subset_column to {column} or to none.")
    elif column.lower() == setting.lower():
        roles = _read_flags(column, values) or {value: role_of(value) for value in values}
    else:
        return {}
    if unknown := sorted(value for value, role in roles.items() if not role):
        raise ConfigError(f"{table.path}: the column {column} has the value {unknown[0]!r}. Expected train, val or "
                          "test in each row. Correct the rows, or set data.subset_column to another column or to none.")
    return roles
