"""The labels of the images: from class folders, tables, COCO JSON or file names, whichever the evidence supports."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from carclf.config.settings import Data
from carclf.dataset.detection.ids import Joined, describe_unmatched, first_of_each
from carclf.dataset.detection.label_folders import (
    describe_no_labels,
    read_class_folders,
    read_prefixes,
    require_single_root,
)
from carclf.dataset.detection.label_tables import (
    AmbiguousColumnError,
    TableLabels,
    are_same_classes,
    combine,
    describe_unlabeled,
    join_tables,
    read_labels,
)
from carclf.dataset.detection.result import Detection, class_key, class_name, number_key
from carclf.dataset.detection.subsets import SOURCES
from carclf.dataset.detection.tables import Table
from carclf.dataset.findings import Finding, describe_missing_images, format_labels
from carclf.dataset.layout import match_ids
from carclf.errors import ConfigError, DataError
from carclf.formatting import format_count

MAX_REASONS = 3  # of tables without labels, in one message
MIN_COMMON = 0.5  # fraction of the class folders that are classes of the table


@dataclass(frozen=True)
class Evidence:
    """What the labels may follow from.

    ``images`` are those that are not in the test set, ``tables`` those of the files and of COCO JSON, ``errors`` those
    of unreadable tables, and ``targets`` the sample submission's columns.
    """

    images: pd.DataFrame
    tables: Sequence[Table]
    errors: Mapping[str, DataError]
    others: Sequence[str]
    targets: Sequence[str]
    config: Data


@dataclass(frozen=True)
class Labels:
    """Label and source by row label of the images. ``names`` are the class names by label, if folders have them."""

    values: "pd.Series[str]"
    sources: "pd.Series[str]"
    detection: Detection
    joined: Sequence[Joined] = ()
    findings: Sequence[Finding] = ()
    names: Mapping[str, str] = field(default_factory=dict)


def find_labels(evidence: Evidence) -> Labels:
    """Return the labels. Raises ConfigError if the evidence is ambiguous, DataError if there are none."""
    if evidence.images.empty:
        raise DataError("There are no training images: every image belongs to the test set.")
    setting = evidence.config.label_source
    folders = read_class_folders(evidence.images) if setting in ("auto", "folders") else None
    evidence = replace(evidence, tables=_select_tables(evidence))
    joined = join_tables(evidence.tables, evidence.images, evidence.config)
    tables: list[TableLabels] = []
    findings: list[Finding] = []
    if setting not in ("folders", "file_names"):
        tables, findings = _read_tables(evidence, joined, has_folders=folders is not None)
    if folders is not None:
        labels = _from_folders(evidence, folders, tables)
    elif tables:
        labels = _from_tables(evidence, tables)
    else:
        labels = _from_prefixes(evidence, joined)
    return replace(labels, joined=joined, findings=[*findings, *labels.findings])


def _select_tables(evidence: Evidence) -> Sequence[Table]:
    """Return the tables that may have labels, as the settings name them."""
    path, setting = evidence.config.label_table, evidence.config.label_source
    if not path or setting in ("folders", "file_names"):
        return [table for table in evidence.tables if setting not in ("table", "json")
                or table.path.endswith(".json") == (setting == "json")]
    if tables := [table for table in evidence.tables if path in (table.path, table.path.rpartition("/")[2])]:
        return tables[:1]
    paths = ", ".join(table.path for table in evidence.tables)
    raise evidence.errors.get(path) or ConfigError(
        f"data.label_table is {path!r}, which is not a table of the source. "
        f"{f'Its tables are {paths}.' if paths else 'It has no table that can be read.'}")


def _read_tables(
    evidence: Evidence, joined: Sequence[Joined], *, has_folders: bool
) -> tuple[list[TableLabels], list[Finding]]:
    """Return the tables with labels, and the problems of tables that class folders make harmless."""
    if evidence.config.label_table and not joined:
        problem = describe_unmatched(evidence.tables[0], evidence.images, evidence.config)
        form = evidence.config.id_form
        advice = "set data.id_column or data.id_form" if form == "auto" else f"change data.id_form, which is {form}"
        raise ConfigError(f"data.label_table: {problem} Correct its ids, or {advice}.")
    candidates: list[TableLabels] = []
    findings = [Finding("invalid_label_table", path, f"{error} It is not used.")
                for path, error in evidence.errors.items()]
    for table in joined:
        try:
            labels = read_labels(table, evidence.targets, evidence.config)
        except (AmbiguousColumnError, DataError) as error:
            if not has_folders:
                raise
            findings.append(Finding("invalid_label_table", table.path, f"{error} The class folders are used."))
        else:
            candidates += [labels] if labels and (len(labels.values) or table.match.ambiguous) else []
    unmatched = {table.path: table for table in evidence.tables if has_folders and table.role in ("train", "val")}
    for path in sorted(unmatched.keys() - {table.path for table in joined}):
        problem = describe_unmatched(unmatched[path], evidence.images, evidence.config)
        findings.append(Finding("unmatched_label_table", path, f"{problem} The table is not used."))
    return combine(candidates), findings


def _sources(images: pd.DataFrame, labels: "pd.Series[str]") -> "pd.Series[str]":
    sources: pd.Series[str] = images.loc[labels.index, "role"].map(SOURCES)
    return sources


def _from_prefixes(evidence: Evidence, joined: Sequence[Joined]) -> Labels:
    setting = evidence.config.label_source
    prefixes = read_prefixes(evidence.images) if setting in ("auto", "file_names") else None
    if prefixes is None:
        reasons = describe_unlabeled(evidence.tables, joined, evidence.images, evidence.config)
        text = "".join(f" {reason}" for reason in [*evidence.errors.values(), *reasons][:MAX_REASONS])
        problem = describe_no_labels(evidence.images, evidence.others, text)
        raise DataError(problem) if setting == "auto" else ConfigError(f"data.label_source is {setting}. {problem}")
    num_prefixes = format_count(prefixes.nunique(), "prefix", "prefixes")
    text = f"{num_prefixes} of names, such as {prefixes.min()}; nothing else has labels"
    return Labels(prefixes, _sources(evidence.images, prefixes), Detection("labels", "file_names", text))


def _from_tables(evidence: Evidence, tables: Sequence[TableLabels]) -> Labels:
    sources = []
    for table in tables:
        if ambiguous := sorted(table.joined.match.ambiguous):
            raise ConfigError(f"{table.joined.path}: {format_count(len(ambiguous), 'id has', 'ids have')} several "
                              f"images (such as {ambiguous[0]!r}, by {table.joined.match.form}). Set data.train_folder "
                              "or data.id_form, such as {id}.jpg.")
        source = _sources(evidence.images, table.values)
        if table.role in ("val", "test"):
            source[source == "train"] = SOURCES[table.role]
        given = table.sources
        sources.append(source if given is None else given.reindex(source.index).fillna(source))
    labels = pd.concat([table.values for table in tables])
    if labels.index.has_duplicates:
        paths = ", ".join(table.joined.path for table in tables)
        raise ConfigError(f"Several tables have labels of the same images: {paths}. Set data.label_table to one.")
    text = "; ".join(f"{table.column} of {table.joined.path} for {format_count(len(table.values), 'image')} by "
                     f"{table.joined.match.form}" for table in tables)
    is_json = any(table.joined.path.endswith(".json") for table in tables)
    findings = [finding for table in tables for finding in _find_missing(table, evidence.config.max_missing)]
    return Labels(labels, pd.concat(sources), Detection("labels", "json" if is_json else "table", text),
                  findings=[*findings, *_find_unlisted(evidence.images, labels, "They are not used.")])


def _find_missing(table: TableLabels, max_missing: float) -> list[Finding]:
    match, path = table.joined.match, table.joined.path
    if not match.missing:
        return []
    num_ids = len(match.missing) + len(match.rows)
    problem = describe_missing_images(match.missing, num_ids)
    fraction = len(match.missing) / num_ids
    if fraction > max_missing:
        raise DataError(f"{path}: {problem} The ids were compared by {match.form}. Add the images, or set "
                        f"data.max_missing to {fraction + 0.0005:.3f} to ignore these rows.")
    return [Finding("unmatched_label_table", path, f"{problem} Rows without an image are not used.")]


def _find_unlisted(images: pd.DataFrame, labels: "pd.Series[str]", consequence: str) -> list[Finding]:
    paths = images.loc[~images.index.isin(labels.index) & (images["role"] == "train"), "path"]
    return [Finding("unmatched_label_table", paths.iloc[0], (
        f"{format_count(len(paths), 'training image has', 'training images have')} no label in the table (first: "
        f"{paths.iloc[0]}). {consequence}"))
    ] if len(paths) else []


def _from_folders(evidence: Evidence, folders: "pd.Series[str]", tables: Sequence[TableLabels]) -> Labels:
    """Return the folders' labels, checked against the tables; or the tables' if the folders are not their classes."""
    if evidence.config.label_column and not tables:
        raise ConfigError(f"data.label_column is {evidence.config.label_column!r}, but the labels are class folders: "
                          "no table has a class for the images. Remove the setting, or set data.label_table.")
    values = first_of_each(pd.concat([table.values for table in tables])) if tables else pd.Series(dtype="object")
    values = values[values.index.isin(folders.index[folders != ""])]
    classes = _match_classes(set(folders) - {""}, set(values))
    names: dict[str, str] = {}
    if len(values) and not classes:
        is_target = any(table.rank > 1 for table in tables)
        if not are_same_classes(folders[values.index], values):
            if is_target or evidence.config.label_table:
                return _from_tables(evidence, tables)
            kind = "json" if tables[0].joined.table.path.endswith(".json") else "table"
            raise ConfigError(f"The class folders, such as {folders.max()}, and {tables[0].column} of "
                              f"{tables[0].joined.path}, such as {values.max()}, are different classes. Set "
                              f"data.label_source to folders or {kind}.")
        if is_target:  # the table has numbers for the names of the folders
            names = dict(zip(values, folders[values.index], strict=True))
            classes = {name: label for label, name in names.items()}
    require_single_root(evidence.images)
    labels = folders.map(lambda name: classes.get(name, name))
    stray = evidence.images.loc[folders.index[folders == ""], "path"].tolist()
    findings = [Finding("unknown_class", stray[0], (
        f"{format_count(len(stray), 'training image is', 'training images are')} not directly in a class folder "
        f"(first: {stray[0]}). Move each into the folder of its class, or remove it."))] if stray else []
    text = (f"{format_count(folders[folders != ''].nunique(), 'class folder')} with "
            f"{format_count(len(folders), 'image')}")
    if classes:
        findings += _compare(evidence.images, folders, labels, tables)
        text += f"; {tables[0].column} of {tables[0].joined.path} has {len(values)} of them"
    return Labels(labels, _sources(evidence.images, labels), Detection("labels", "folders", text), findings=findings,
                  names=names)


def _match_classes(names: set[str], classes: set[str]) -> dict[str, str]:
    """Return the table's class of each folder; an empty dict if less than half of the folders have one.

    Names are compared as they are, in the archive's code page, without punctuation, and as numbers.
    """
    for key in (class_key, number_key):
        by_key = {key(name): name for name in sorted(classes, reverse=True)}
        matches = {name: by_key[key(name)] for name in names if key(name) in by_key}
        matches |= {folder: name for name, folder in match_ids(sorted(classes), names).items()}
        if names and len(set(matches.values())) >= MIN_COMMON * len(names):
            return matches
    return {}


def _compare(
    images: pd.DataFrame, folders: "pd.Series[str]", labels: "pd.Series[str]", tables: Sequence[TableLabels]
) -> list[Finding]:
    """Return the differences between the folders' labels and the tables'."""
    values = first_of_each(pd.concat([table.values for table in tables]))
    both = labels.index[(labels != "") & labels.index.isin(values.index)]
    differs = both[labels[both] != values[both]]
    findings = [Finding("label_mismatch", path, f"{tables[0].joined.path} has another class. The folder's class is "
                        "used.") for path in images.loc[differs, "path"]]
    expected = set(values).union(*(table.joined.table.rows[table.column].map(class_name) for table in tables
                                   if table.column in table.joined.table.rows)) - {""}
    findings += _compare_classes(images, folders, labels, expected)
    for table in tables:
        findings += _find_missing(table, 1.0)
    return findings + _find_unlisted(images, values, "The classes of their folders are used unchecked.")


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
            "class.")))
    return findings + [Finding("empty_class", label, f"Class '{label}' of the table has no images. Add images of it.")
                       for label in sorted(expected - set(labels))]
