"""The labels of the images: from class folders, tables, COCO JSON or file names, whichever the evidence supports."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

import pandas as pd

from carclf.config.settings import Data
from carclf.dataset.detection.given_subsets import Subsets, find_subsets
from carclf.dataset.detection.ids import Joined, describe_unmatched, first_of_each
from carclf.dataset.detection.label_findings import (
    check_lists,
    compare,
    find_missing,
    find_other_lists,
    find_tables_of_parts,
    find_unjoined,
    find_unlisted,
    find_unread_splits,
    find_unused_lists,
    name_as_in_training,
)
from carclf.dataset.detection.label_folders import (
    are_parts,
    check_prefixes,
    describe_no_labels,
    describe_subset,
    describe_unread_table,
    labels_of_other_subsets,
    match_classes,
    read_class_folders,
    read_prefixes,
    require_single_field,
    require_single_folder,
    require_single_root,
)
from carclf.dataset.detection.label_tables import (
    AmbiguousColumnError,
    SeveralLabelsError,
    TableLabels,
    are_same_classes,
    combine,
    describe_unlabeled,
    join_tables,
    read_all_labels,
)
from carclf.dataset.detection.result import Detection
from carclf.dataset.detection.subset_lists import LABEL_COLUMN, has_image_names
from carclf.dataset.detection.subsets import role_of
from carclf.dataset.detection.tables import Table, is_kind, is_usual_label
from carclf.dataset.findings import Finding
from carclf.errors import ConfigError, DataError
from carclf.formatting import format_count

MAX_REASONS = 3  # of tables without labels, in one message


@dataclass(frozen=True)
class Evidence:
    """What the labels may follow from.

    ``images`` are those that are not in the test set, ``tables`` those of the files and of JSON, ``lists`` those of
    subsets, ``other_lists`` text files that list images, ``errors`` those of unreadable tables, ``unread`` JSON files
    that name images in a form that is not read, ``targets`` the sample submission's columns, and ``masks`` files that
    are called like masks of the images.
    """

    images: pd.DataFrame
    tables: Sequence[Table]
    lists: Sequence[Table]
    other_lists: Sequence[Table]
    errors: Mapping[str, DataError]
    others: Sequence[str]
    unread: Sequence[str]
    targets: Sequence[str]
    masks: Sequence[str]
    config: Data


@dataclass(frozen=True)
class Labels:
    """Label by row label of the images, how they were found, and the labels' names, if folders have them."""

    values: "pd.Series[str]"
    detection: Detection
    findings: Sequence[Finding] = ()
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Labeled:
    """The labels of images, their subsets, and all tables with rows about the images."""

    labels: Labels
    subsets: Subsets
    joined: Sequence[Joined]
    findings: Sequence[Finding]


def find_labels(evidence: Evidence) -> Labeled:
    """Return the labels and subsets. Raises ConfigError if the evidence is ambiguous, DataError if there are none."""
    if evidence.images.empty:
        raise DataError("There are no training images: every image belongs to the test set.")
    setting = evidence.config.label_source
    folders = None
    if setting in ("auto", "folders"):
        folders = read_class_folders(evidence.images, evidence.config.class_level)
    all_joined = join_tables(evidence.tables, evidence.images, evidence.config)
    evidence = replace(evidence, tables=_select_tables(evidence))
    paths = {table.path for table in evidence.tables}
    joined = [table for table in all_joined if table.path in paths]
    used = {table.path for table in joined}
    tables: list[TableLabels] = []
    findings: list[Finding] = []
    if setting not in ("folders", "file_names"):
        tables, findings = _read_tables(evidence, joined, folders)
    may_be_prefixes = setting == "auto" and not evidence.config.label_table and folders is None
    if may_be_prefixes and (prefixes := read_prefixes(evidence.images)) is not None:
        tables, ambiguous = _without_weak(tables, prefixes)
        findings += ambiguous
    if folders is not None:
        labels = _from_folders(evidence, folders, tables)
    elif tables:
        labels = _from_tables(evidence, tables)
    else:
        labels = _from_prefixes(evidence, joined)
    columns = {(table.joined.path, column) for table in tables for column in table.columns}
    lists = join_tables(evidence.lists, evidence.images, evidence.config)
    findings += find_unused_lists(evidence.lists, lists, has_sample=bool(evidence.targets))
    findings += find_unread_splits(evidence.others, evidence.lists)
    others = join_tables(evidence.other_lists, evidence.images, evidence.config)
    if setting == "auto":
        unmatched = [table for table in evidence.tables if table.path not in used]
        findings += find_tables_of_parts(unmatched, set(labels.values), labels.detection.result)
        findings += check_lists([*lists, *others], labels.values, are_prefixes=labels.detection.result == "file_names")
    # next to a sample submission, test.csv is about its images
    about_labeled = [table for table in [*all_joined, *lists] if table.path in {path for path, _ in columns}
                     or not (evidence.targets and table.table.role in ("test", "predict"))]
    subsets = find_subsets(
        evidence.images.loc[labels.values.index], about_labeled, columns, evidence.config.subset_column)
    labels = replace(labels, values=name_as_in_training(labels.values, subsets.sources))
    num_images = len(evidence.images)
    findings += find_other_lists(others, num_images) + find_unjoined(evidence.tables, all_joined, num_images)
    return Labeled(labels, subsets, [*all_joined, *lists], [*findings, *labels.findings, *subsets.findings])


def _without_weak(
    tables: list[TableLabels], prefixes: "pd.Series[str]"
) -> tuple[list[TableLabels], list[Finding]]:
    """Return the tables without predictions, and a finding if words in names may be the labels instead of a column.

    ``prefixes`` are those of the images' names; numbers, such as those of patients, may be labels next to JSON only.
    Raises ConfigError if neither a column nor a table is called like labels.
    """
    tables = [table for table in tables if table.role != "predict"]
    if not tables or any(table.rank for table in tables):
        return tables, []
    first, values = tables[0], tables[0].values
    both = values.index.intersection(prefixes.index)
    if are_same_classes(prefixes[both], values[both]):
        return tables, []
    are_words = not prefixes.str.contains("[0-9]").any()
    if all(not _is_called_like_labels(table) and (are_words or table.joined.table.is_json) for table in tables):
        kind = "json" if first.joined.table.is_json else "table"
        raise ConfigError(f"The classes may be prefixes of names, such as {prefixes.min()}, or {first.column} of "
                          f"{first.joined.path}, such as {values.max()}. Set data.label_source to file_names or "
                          f"{kind}.")
    return tables, [Finding("common_prefixes", first.joined.path, (
        f"The classes are those of the column {first.column}. If they are prefixes of names, such as "
        f"{prefixes.min()}, set data.label_source to file_names."))] * are_words


def _is_called_like_labels(table: TableLabels) -> bool:
    """Return True if the name of the column or of the table is that of labels: diagnosis, or labels.csv."""
    words = re.findall("[A-Za-z]+", PurePosixPath(table.joined.path).stem)
    are_labels = bool(words) and all(is_usual_label(word) or role_of(word) for word in words)
    return is_kind(table.column) or are_labels


def _select_tables(evidence: Evidence) -> Sequence[Table]:
    """Return the tables that may have labels, as the settings name them."""
    path, setting = evidence.config.label_table, evidence.config.label_source
    if path and setting in ("folders", "file_names"):
        raise ConfigError(f"data.label_table is {path!r}, but data.label_source is {setting}: the labels are not in a "
                          "table. Remove one of the two settings.")
    if not path:
        return [table for table in evidence.tables if setting not in ("table", "json")
                or table.is_json == (setting == "json")]
    if tables := [table for table in evidence.tables if path in (table.path, table.path.rpartition("/")[2])]:
        return tables[:1]
    paths = ", ".join(table.path for table in evidence.tables)
    raise evidence.errors.get(path) or ConfigError(
        f"data.label_table is {path!r}, which is not a table of the source. "
        f"{f'Its tables are {paths}.' if paths else 'It has no table that can be read.'}")


def _read_tables(
    evidence: Evidence, joined: Sequence[Joined], folders: "pd.Series[str] | None"
) -> tuple[list[TableLabels], list[Finding]]:
    """Return the tables with labels, and the problems of tables that class folders make harmless."""
    if evidence.config.label_table and not joined:
        problem = describe_unmatched(evidence.tables[0], evidence.images, evidence.config)
        form = evidence.config.id_form
        advice = "set data.id_column or data.id_form" if form == "auto" else f"change data.id_form, which is {form}"
        raise ConfigError(f"data.label_table: {problem} Correct its ids, or {advice}.")
    _require_columns(evidence)
    candidates, errors = read_all_labels(joined, evidence.targets, evidence.config)
    findings = [Finding("invalid_label_table", path, f"{error} It is not used.")
                for path, error in evidence.errors.items()]
    findings += _find_unusable(evidence, folders, errors, candidates)
    if evidence.config.label_table and not candidates:
        reason = " ".join(describe_unlabeled(evidence.tables, joined, evidence.images, evidence.config))
        raise ConfigError(f"data.label_table: {reason} Otherwise, set another table.")
    if folders is not None:
        findings += _find_unmatched(evidence, joined, folders)
        candidates = [candidate for candidate in candidates if candidate.role != "predict"
                      and (candidate.rank or not candidate.joined.is_by_key)]
    return combine(candidates), findings


def _require_columns(evidence: Evidence) -> None:
    """Raise ConfigError if a column of the settings is in none of the tables."""
    for name in ("id_column", "label_column"):
        setting = getattr(evidence.config, name)
        if setting and evidence.tables and not any(table.find_columns(setting) for table in evidence.tables):
            evidence.tables[0].column(setting, f"data.{name}")


def _find_unusable(
    evidence: Evidence, folders: "pd.Series[str] | None", errors: Sequence[tuple[str, ConfigError | DataError]],
    candidates: Sequence[TableLabels],
) -> list[Finding]:
    """Return findings about the tables whose labels cannot be read. Raises the error of one that may be the labels.

    Columns that may be classes do not matter next to a table with a column that is called like label.
    """
    config = evidence.config
    has_labels = any(candidate.rank for candidate in candidates)
    errors = [(path, error) for path, error in errors if not (has_labels and (
        isinstance(error, AmbiguousColumnError) or (isinstance(error, SeveralLabelsError) and not error.is_usual)))]
    if errors and (folders is None or config.label_table or config.label_column):
        error = errors[0][1]
        if isinstance(error, AmbiguousColumnError) and folders is None and read_prefixes(evidence.images) is not None:
            raise type(error)(f"{error} If the classes are prefixes of names, set data.label_source to file_names.")
        raise error
    if errors and folders is not None and are_parts(set(folders)):
        raise type(errors[0][1])(f"{errors[0][1]} If the classes are the folders, set data.label_source to folders.")
    return [Finding("invalid_label_table", path, f"{error} The class folders are used.") for path, error in errors]


def _find_unmatched(evidence: Evidence, joined: Sequence[Joined], folders: "pd.Series[str]") -> list[Finding]:
    """Return findings about tables that may be meant as labels, but have no ids of the images.

    Tables in a class folder, those of other subsets and tables with a row per class are meant otherwise.
    """
    paths = {table.path for table in joined}
    in_folders = set(evidence.images["folder"])

    def may_be_labels(table: Table) -> bool:
        is_in_folder = table.path.rpartition("/")[0] in in_folders
        is_test_list = table.role == "test" and not evidence.targets and has_image_names(table)
        return is_test_list or table.role in ("train", "val") or not (
            table.role or is_in_folder or len(table.rows) <= folders.nunique())

    return [Finding("unmatched_label_table", table.path, (
        f"{describe_unmatched(table, evidence.images, evidence.config)} The table is not used."))
        for table in evidence.tables if table.path not in paths and not table.is_json and may_be_labels(table)]


def _may_have_labels(tables: Sequence[Table], num_classes: int) -> bool:
    """Return True if a table is not about test images, and has more rows than a table of the classes."""
    return any(table.role in ("", "train", "val") and len(table.rows) > num_classes for table in tables)


def _from_prefixes(evidence: Evidence, joined: Sequence[Joined]) -> Labels:
    setting = evidence.config.label_source
    is_chosen = setting == "file_names"
    prefixes = read_prefixes(evidence.images, is_chosen=is_chosen) if is_chosen or setting == "auto" else None
    allows_tables = setting not in ("folders", "file_names")
    tables = evidence.tables if allows_tables else []
    reasons = describe_unlabeled(tables, joined, evidence.images, evidence.config)
    text = "".join(f" {reason}" for reason in [*evidence.errors.values(), *reasons][:MAX_REASONS])
    used = {table.path for table in joined}
    unmatched = [table for table in tables if table.path not in used and not table.is_json]
    if prefixes is not None and setting == "auto" and _may_have_labels(unmatched, prefixes.nunique()):
        raise ConfigError(f"The labels may be in a table, or be prefixes of names, such as {prefixes.min()}.{text} "
                          "Correct the table, or set data.label_source to file_names.")
    if prefixes is not None and setting == "auto" and (unread := describe_unread_table(evidence.others)):
        raise ConfigError(f"{unread} If the labels are prefixes of names, such as {prefixes.min()}, set "
                          "data.label_source to file_names.")
    if prefixes is not None and setting == "auto":
        require_single_folder(evidence.images, prefixes)
        require_single_field(evidence.images, prefixes)
    if prefixes is None:
        lists = [table.path for table in [*evidence.lists, *evidence.other_lists] if LABEL_COLUMN in table.rows]
        if evidence.masks:
            text += (f" {format_count(len(evidence.masks), 'file is', 'files are')} called like masks or copies of the "
                     f"images (first: {evidence.masks[0]}); if it is in a class folder, rename that.")
        problem = describe_no_labels(evidence.images, evidence.others, [*lists, *evidence.unread], text)
        raise DataError(problem) if setting == "auto" else ConfigError(f"data.label_source is {setting}. {problem}")
    findings = [Finding("unmatched_label_table", path, (
        "The file names images, but it is not used. If it has the labels, convert it to a CSV table with a column of "
        "file names and one of classes.")) for path in evidence.unread] if setting == "auto" else []
    num_prefixes = format_count(prefixes.nunique(), "prefix", "prefixes")
    example = evidence.images.loc[prefixes.index[prefixes == prefixes.min()][0], "path"].rpartition("/")[2]
    text = f"{num_prefixes} of names, such as {prefixes.min()} of {example}; nothing else has labels"
    return Labels(prefixes, Detection("labels", "file_names", text), findings)


def _from_tables(evidence: Evidence, tables: Sequence[TableLabels]) -> Labels:
    for table in tables:
        _require_distinct_images(table, "")
    labels = pd.concat([table.values for table in tables])
    if labels.index.has_duplicates:
        paths = ", ".join(table.joined.path for table in tables)
        raise ConfigError(f"Several tables have labels of the same images: {paths}. Set data.label_table to one.")
    text = "; ".join(f"{table.column} of {table.joined.path} for {format_count(len(table.values), 'image')} by "
                     f"{table.joined.match.form}" for table in tables)
    is_json = any(table.joined.table.is_json for table in tables)
    findings = [finding for table in tables for finding in find_missing(table, evidence.config.max_missing)]
    findings += [Finding("empty_class_column", table.joined.path, (
        f"The column {name!r} is 0 in each row: the class has no images, and no model can predict it."))
        for table in tables for name in table.empty if name not in set(labels)]
    return Labels(labels, Detection("labels", "json" if is_json else "table", text),
                  [*findings, *find_unlisted(evidence.images, labels, "They are not used.")])


def _require_distinct_images(table: TableLabels, advice: str) -> None:
    if ambiguous := sorted(table.joined.match.ambiguous):
        form = table.joined.match.form
        id_form = "" if form.endswith("name") else " or data.id_form, such as {id}.jpg"
        raise ConfigError(f"{table.joined.path}: {format_count(len(ambiguous), 'id has', 'ids have')} several images "
                          f"(such as {ambiguous[0]!r}, by {form}). Write the ids as paths in the source, or set "
                          f"data.train_folder{id_form}{advice}.")


def _require_usable(tables: Sequence[TableLabels], config: Data, folders: set[str]) -> None:
    """Raise ConfigError if tables next to class folders may be the labels, but are ambiguous about the images."""
    if config.label_column and not tables:
        raise ConfigError(f"data.label_column is {config.label_column!r}, but the labels are class folders: no table "
                          "has a class for the images. Remove the setting, or set data.label_table.")
    for table in tables:
        if not match_classes(folders, set(table.classes)):
            _require_distinct_images(table, ", or set data.label_source to folders")


def _is_table_per_folder(images: pd.DataFrame, tables: Sequence[TableLabels]) -> bool:
    """Return True for tables such as batch1/labels.csv and batch2/labels.csv, each in a folder with its images."""
    folders = [table.joined.path.rpartition("/")[0] for table in tables]
    return len(tables) > 1 and all(
        table.rank and folder and images.loc[table.values.index, "path"].str.startswith(f"{folder}/").all()
        for folder, table in zip(folders, tables, strict=True))


def _from_folders(evidence: Evidence, folders: "pd.Series[str]", tables: Sequence[TableLabels]) -> Labels:
    """Return the folders' labels, checked against the tables; or the tables' if the folders are not their classes."""
    may_be_prefixes = evidence.config.label_source == "auto" and not (tables or evidence.config.class_level)
    findings = check_prefixes(evidence.images, folders) if may_be_prefixes else []
    _require_usable(tables, evidence.config, set(folders) - {""})
    values = first_of_each(pd.concat([table.values for table in tables])) if tables else pd.Series(dtype="object")
    values = values[values.index.isin(folders.index[folders != ""])]
    classes = match_classes(set(folders) - {""}, set(values))
    names: dict[str, str] = {}
    if len(values) and not classes:
        is_target = any(table.rank > 1 for table in tables)
        if not are_same_classes(folders[values.index], values):
            if is_target or evidence.config.label_table or _is_table_per_folder(evidence.images, tables):
                return _from_tables(evidence, tables)
            kind = "json" if tables[0].joined.table.is_json else "table"
            raise ConfigError(f"The class folders, such as {folders.max()}, and {tables[0].column} of "
                              f"{tables[0].joined.path}, such as {values.max()}, are different classes. Set "
                              f"data.label_source to folders or {kind}.")
        if is_target:  # the table has numbers for the names of the folders
            names = dict(zip(values, folders[values.index], strict=True))
            classes = {name: label for label, name in names.items()}
    require_single_root(evidence.images)
    labels = folders.map(lambda name: classes.get(name, name))
    outside = evidence.images.loc[folders.index[folders == ""]]
    if stray := outside["path"].tolist():
        subset = describe_subset(outside)
        findings.append(Finding("unknown_class", stray[0], (
            f"{format_count(len(stray), 'training image is', 'training images are')} not directly in a class folder "
            f"(first: {stray[0]}).{subset or ' Move each into the folder of its class, or remove it.'}")))
    text = (f"{format_count(folders[folders != ''].nunique(), 'class folder')} with "
            f"{format_count(len(folders), 'image')}")
    if classes:
        findings += compare(evidence.images, folders, labels, tables)
        text += f"; {tables[0].column} of {tables[0].joined.path} has {len(values)} of them"
    labels = pd.concat([labels, labels_of_other_subsets(folders, labels, tables)])
    return Labels(labels, Detection("labels", "folders", text), findings, names)
