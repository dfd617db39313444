"""The labels of the images: from class folders, tables, COCO JSON or file names, whichever the evidence supports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from carclf.config.settings import Data
from carclf.dataset.detection.ids import Joined, raise_if_ambiguous
from carclf.dataset.detection.label_folders import (
    describe_no_labels,
    find_misplaced,
    number_key,
    read_class_folders,
    read_prefixes,
    require_single_root,
)
from carclf.dataset.detection.label_tables import AmbiguousColumnError, TableLabels, combine, join_tables, read_labels
from carclf.dataset.detection.result import Detection
from carclf.dataset.detection.submission_format import class_key
from carclf.dataset.detection.subsets import SOURCES
from carclf.dataset.detection.tables import Table
from carclf.dataset.findings import Finding, format_labels
from carclf.dataset.layout import match_ids
from carclf.errors import ConfigError, DataError

MIN_COMMON = 0.5  # fraction of the class folders that are classes of the table


@dataclass(frozen=True)
class Evidence:
    """What the labels may follow from.

    ``images`` are those that are not in the test set. ``errors`` are those of unreadable tables, ``targets`` the
    sample submission's columns.
    """

    images: pd.DataFrame
    tables: Sequence[Table]
    coco: Sequence[Table]
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
    setting = evidence.config.label_source
    folders = read_class_folders(evidence.images) if setting in ("auto", "folders") else None
    tables, joined, findings = _read_tables(evidence, has_folders=folders is not None)
    if folders is not None:
        labels = _from_folders(evidence, folders, tables, joined)
    elif tables:
        labels = _from_tables(evidence, tables, joined)
    else:
        prefixes = read_prefixes(evidence.images) if setting in ("auto", "file_names") else None
        if prefixes is None:
            raise _no_labels(evidence)
        text = f"{prefixes.nunique()} prefixes of names, such as {prefixes.min()}; nothing else has labels"
        detection = Detection("labels", "file_names", text)
        labels = Labels(prefixes, _sources(evidence.images, prefixes), detection, joined)
    return Labels(labels.values, labels.sources, labels.detection, labels.joined, [*findings, *labels.findings],
                  labels.names)


def _no_labels(evidence: Evidence) -> DataError | ConfigError:
    """Return the error for data without labels: about an unreadable table, the setting, or what is there."""
    if evidence.errors:
        return next(iter(evidence.errors.values()))
    setting = evidence.config.label_source
    problem = describe_no_labels(evidence.images, evidence.others)
    return DataError(problem) if setting == "auto" else ConfigError(f"data.label_source is {setting}. {problem}")


def _read_tables(evidence: Evidence, *, has_folders: bool) -> tuple[list[TableLabels], list[Joined], list[Finding]]:
    """Return the tables with labels, all tables with rows about images, and the problems that folders make harmless."""
    config = evidence.config
    if config.label_source in ("folders", "file_names"):
        return [], join_tables(evidence.tables, evidence.images, config), []
    tables = {"json": evidence.coco, "table": evidence.tables}.get(
        config.label_source, [*evidence.tables, *evidence.coco])
    if config.label_table:
        tables = [_configured_table(evidence)]
    joined = join_tables(tables, evidence.images, config)
    if config.label_table and not joined:
        raise ConfigError(f"data.label_table is {config.label_table}, but less than half of its ids name images (such "
                          f"as {evidence.images['path'].iloc[0]}). Set data.id_column or data.id_form.")
    candidates: list[TableLabels] = []
    findings = [Finding("invalid_train_csv", path, f"{error} It is not used.")
                for path, error in evidence.errors.items()]
    for table in joined:
        try:
            labels = read_labels(table, evidence.targets, config)
        except (AmbiguousColumnError, DataError) as error:
            if not has_folders:
                raise
            findings.append(Finding("invalid_train_csv", table.table.path, f"{error} The class folders are used."))
            continue
        candidates += [labels] if labels and len(labels.values) else []
    if has_folders:
        findings += _find_unmatched(tables, joined)
    return combine(candidates), joined, findings


def _configured_table(evidence: Evidence) -> Table:
    path = evidence.config.label_table
    for table in (*evidence.tables, *evidence.coco):
        if path in (table.path, table.path.rpartition("/")[2]):
            return table
    raise evidence.errors.get(path) or ConfigError(
        f"data.label_table is {path!r}, which is not a table of the source. Its tables are "
        f"{', '.join(table.path for table in evidence.tables) or 'none'}.")


def _find_unmatched(tables: Sequence[Table], joined: Sequence[Joined]) -> list[Finding]:
    matched = {table.table.path for table in joined}
    return [Finding("unmatched_train_csv", table.path, (
        f"No column has ids of the training images (first row: {', '.join(table.rows.iloc[0])[:100]!r}). The table is "
        "not used.")) for table in tables if table.path not in matched and table.role in ("train", "val")]


def _sources(images: pd.DataFrame, labels: "pd.Series[str]") -> "pd.Series[str]":
    sources: pd.Series[str] = images.loc[labels.index, "role"].map(SOURCES)
    return sources


def _from_tables(evidence: Evidence, tables: Sequence[TableLabels], joined: Sequence[Joined]) -> Labels:
    findings, values, sources = [], [], []
    for table in tables:
        setting = "data.train_folder, or data.id_form, such as {id}.jpg"
        raise_if_ambiguous(table.joined, setting)
        findings += _check_missing(table, evidence.config.max_missing)
        source = _sources(evidence.images, table.values)
        if table.joined.table.role in ("val", "test"):
            source[source == "train"] = SOURCES[table.joined.table.role]
        values.append(table.values)
        sources.append(source if table.sources is None else table.sources.reindex(source.index).fillna(source))
    labels, source = pd.concat(values), pd.concat(sources)
    if labels.index.has_duplicates:
        paths = ", ".join(table.joined.table.path for table in tables)
        raise ConfigError(f"Several tables have labels of the same images: {paths}. Set data.label_table to one.")
    evidence_text = "; ".join(f"{table.column} of {table.joined.table.path} for {len(table.values)} images by "
                              f"{table.joined.match.form}" for table in tables)
    is_coco = any(table.joined.table in evidence.coco for table in tables)
    detection = Detection("labels", "json" if is_coco else "table", evidence_text)
    return Labels(labels, source, detection, joined, [*findings, *_find_unlisted(evidence.images, labels)])


def _check_missing(table: TableLabels, max_missing: float) -> list[Finding]:
    missing = sorted(table.joined.match.missing)
    num, path = len(missing) + len(table.joined.match.rows), table.joined.table.path
    if len(missing) > max_missing * num:
        raise DataError(f"{path}: {len(missing)} of {num} ids (compared by {table.joined.match.form}) have no image, "
                        f"such as {', '.join(missing[:5])}. Add the images, or set data.max_missing to "
                        f"{len(missing) / num + 0.0005:.3f} to ignore them.")
    return [Finding("unmatched_train_csv", path, (
        f"{len(missing)} of {num} ids match no image (first: {missing[0]!r}). Their rows are not used."))
    ] if missing else []


def _find_unlisted(images: pd.DataFrame, labels: "pd.Series[str]") -> list[Finding]:
    paths = images.loc[~images.index.isin(labels.index) & (images["role"] == "train"), "path"]
    return [Finding("unmatched_train_csv", paths.iloc[0], (
        f"{len(paths)} training images have no label in the table (first: {paths.iloc[0]}). They are not used."))
    ] if len(paths) else []


def _from_folders(
    evidence: Evidence, folders: "pd.Series[str]", tables: Sequence[TableLabels], joined: Sequence[Joined]
) -> Labels:
    """Return the folders' labels, checked against the tables; or the tables' if the folders are not their classes."""
    values = pd.concat([table.values for table in tables]) if tables else pd.Series(dtype="object")
    values = values[~values.index.duplicated() & values.index.isin(folders.index[folders != ""])]
    classes = _match_classes(set(folders) - {""}, set(values))
    names: dict[str, str] = {}
    if len(values) and not classes:
        is_target = any(table.rank > 1 for table in tables)
        if not _is_one_to_one(folders[values.index], values):
            if is_target or evidence.config.label_table:
                return _from_tables(evidence, tables, joined)
            raise ConfigError(f"The class folders, such as {folders.max()}, and {tables[0].column} of "
                              f"{tables[0].joined.table.path}, such as {values.max()}, are different classes. Set "
                              "data.label_source to folders or table.")
        if is_target:  # the table has numbers for the names of the folders
            names = dict(zip(values, folders[values.index], strict=True))
            classes = {name: label for label, name in names.items()}
    require_single_root(evidence.images)
    labels = folders.map(classes).fillna(folders) if classes else folders
    findings = find_misplaced(evidence.images, folders)
    text = f"{folders[folders != ''].nunique()} class folders with {len(folders)} images"
    if classes:
        findings += _compare(evidence.images, folders, labels, tables)
        text += f"; {tables[0].column} of {tables[0].joined.table.path} has {len(values)} of them"
    detection = Detection("labels", "folders", text)
    return Labels(labels, _sources(evidence.images, labels), detection, joined, findings, names)


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


def _is_one_to_one(folders: "pd.Series[str]", values: "pd.Series[str]") -> bool:
    num_pairs = len(pd.DataFrame({"folder": folders, "value": values}).drop_duplicates())
    return num_pairs == folders.nunique() == values.nunique()


def _compare(
    images: pd.DataFrame, folders: "pd.Series[str]", labels: "pd.Series[str]", tables: Sequence[TableLabels]
) -> list[Finding]:
    """Return the differences between the folders' labels and the tables'."""
    values = pd.concat([table.values for table in tables])
    values = values[~values.index.duplicated()]
    differs = labels[labels != ""].loc[lambda rows: rows.index.isin(values.index)].loc[
        lambda rows: rows != values.reindex(rows.index)]
    findings = [Finding("label_mismatch", path, f"{tables[0].joined.table.path} has another class. The folder's class "
                        "is used.") for path in images.loc[differs.index, "path"]]
    expected = set(values).union(*(table.joined.table.rows[table.column].str.strip() for table in tables
                                   if table.column in table.joined.table.rows)) - {""}
    findings += _compare_classes(images, folders, labels, expected)
    for table in tables:
        findings += _check_missing(table, 1.0)
    return findings + _find_unlisted(images, values)


def _compare_classes(
    images: pd.DataFrame, folders: "pd.Series[str]", labels: "pd.Series[str]", expected: set[str]
) -> list[Finding]:
    spellings: dict[str, set[str]] = {}
    for name in set(folders) - {""}:
        spellings.setdefault(number_key(name), set()).add(name)
    ambiguous = [sorted(names) for key, names in sorted(spellings.items())
                 if len(names) > 1 and sum(number_key(name) == key for name in expected) < len(names)]
    findings = [Finding("ambiguous_class", names[0], (
        f"The folders {', '.join(names)} are the same class of the table. Merge them if they are the same class, or "
        "rename one.")) for names in ambiguous]
    known = expected.union(*ambiguous)
    for label in sorted(set(labels) - known - {""}):
        paths = images.loc[labels.index[labels == label], "path"]
        findings.append(Finding("unknown_class", paths.iloc[0], (
            f"{len(paths)} images are in class '{label}' (first: {paths.iloc[0]}), which the table does not have. Its "
            f"classes are {format_labels(expected)}. Move or remove these images.")))
    return findings + [Finding("empty_class", label, f"Class '{label}' of the table has no images. Add images of it.")
                       for label in sorted(expected - set(labels))]
