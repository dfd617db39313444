"""Detection of a dataset's layout: the questions in their order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from carclf.config import Config
from carclf.dataset.archive_members import is_archive
from carclf.dataset.detection.class_names import check_names, find_class_names, read_maps
from carclf.dataset.detection.coco import Coco, read_coco, read_json_files
from carclf.dataset.detection.files import Files, list_files, normalized
from carclf.dataset.detection.groups import find_groups
from carclf.dataset.detection.label_folders import training_images
from carclf.dataset.detection.labels import Evidence, Labeled, find_labels
from carclf.dataset.detection.metric import detect_metric
from carclf.dataset.detection.rejections import describe_no_images, find_other_formats
from carclf.dataset.detection.result import Detection, Layout, SubmissionFormat
from carclf.dataset.detection.submission_format import detect_format, find_sample, is_sample, targets
from carclf.dataset.detection.subset_lists import has_image_names, read_lists, read_other_lists
from carclf.dataset.detection.subsets import detect_subsets, list_images
from carclf.dataset.detection.tables import (
    Table,
    find_listed_masks,
    has_pixels,
    image_names,
    may_have_classes,
    read_tables,
    with_folder_roles,
)
from carclf.dataset.detection.test_set import find_sample_images, find_test_images
from carclf.dataset.findings import Finding
from carclf.dataset.listing import Folder, list_source, unreadable_error
from carclf.errors import DataError
from carclf.formatting import format_count
from carclf.natural_order import sort_naturally


@dataclass(frozen=True)
class _Source:
    """What is in the folder: its files, images, readable tables, lists, JSON files, and errors."""

    files: Files
    images: pd.DataFrame
    tables: Sequence[Table]
    lists: Sequence[Table]
    other_lists: Sequence[Table]
    errors: Mapping[str, DataError]
    json: Mapping[str, object]
    coco: Coco


def detect(folder: Path, config: Config, evaluation_metric: str = "") -> Layout:
    """Return the layout of the data in a folder, without opening an image.

    ``evaluation_metric`` is Kaggle's description of the competition's metric. Raises DataError if the data are not
    single-label image classification or are incomplete, and ConfigError if the evidence is ambiguous. The message
    names the setting that decides.
    """
    source = _read_source(folder, config)
    sample = find_sample(source.tables, source.errors, source.images, config)
    test_ids, detections = _find_sample_images(source, sample, config)
    labeled = _find_labels(source, sample, test_ids, config)
    labels = labeled.labels
    if not sample:
        test_ids, detection = _find_unlabeled(source, labeled, config)
        detections.append(detection)
    names, named = _name_classes(source, labeled, config)
    train = source.images.loc[labels.values.index].assign(label=labels.values)
    groups, grouped = find_groups(train, labeled.joined, config.data.group_column)
    submission = detect_format(sample, names, config, evaluation_metric) if sample else None
    metric = detect_metric(config.data.metric, evaluation_metric, submission.kind if submission else "", list(names))
    detections += [labels.detection, named, grouped, metric, _describe_submission(submission)]
    train = train.assign(label=labels.values.map(names).fillna(""), source=labeled.subsets.sources, group=groups)
    images = _assemble(source, train, test_ids, names)
    reported = {finding.path for finding in labeled.findings if finding.kind == "ambiguous_class"}
    spellings = [finding for finding in check_names(names.values()) if finding.path not in reported]
    findings = (*labeled.findings, *_find_guesses(labeled), *_find_unnamed(source, named), *spellings,
                *_find_problems(source, images))
    used = {joined.path for joined in labeled.joined}
    detections = [*detect_subsets(source.images), *labeled.subsets.detections, *detections]
    sample_ids = tuple(sample.rows.iloc[:, 0]) if sample else ()
    return Layout(images, tuple(sort_naturally(names.values())), metric.result, submission, tuple(detections),
                  sample_ids, findings, tuple(path for path in _ignored(source, images) if path not in used))


def detect_in_place(folder: Folder, config: Config) -> Layout | None:
    """Return the layout of a source that is a folder, with the errors of a run; None if it has archives to extract."""
    if any(is_archive(entry.path) for entry in list_source(folder).entries):
        return None
    try:
        return detect(folder.folder, config)
    except PermissionError as error:
        raise unreadable_error(error, folder.name) from error


def _read_source(folder: Path, config: Config) -> _Source:
    """Read the files. Raises DataError if there are no images."""
    files = list_files(folder)
    tables, errors = read_tables(files, [*files.paths, *files.masks])
    json, json_errors = read_json_files(files)
    if files.masks and (listed := _find_listed_masks(files, tables, json)):
        files = list_files(folder, listed)
    images = list_images(files, config.data)
    if images.empty:
        names = [*files.tables, *files.json, *files.others, *files.ignored]
        raise DataError(describe_no_images(names, has_pixels=any(map(has_pixels, tables))))
    lists = read_lists(files, json, images["path"].tolist())
    others = {path: data for path, data in json.items() if path not in {table.path for table in lists}}
    coco = read_coco(others, image_names(images["path"]) if json else ())
    coco = replace(coco, tables=with_folder_roles(coco.tables, images))
    return _Source(files, images[images["role"] != "other"], with_folder_roles(tables, images),
                   lists, read_other_lists(files, images["path"].tolist()), errors | json_errors | coco.errors, json,
                   coco)


def _find_listed_masks(files: Files, tables: Sequence[Table], json: Mapping[str, object]) -> set[str]:
    coco = read_coco(json, image_names([*files.paths, *files.masks]))
    names = pd.DataFrame({"file_name": list(coco.file_names.values())}, dtype="object")
    return find_listed_masks(files, [*filter(may_have_classes, [*tables, *coco.tables]), Table("", names)])


def _find_sample_images(
    source: _Source, sample: Table | None, config: Config
) -> tuple[dict[int, str], list[Detection]]:
    """Return the ids of the test images by row label. Images next to them, which the sample lacks, have their name."""
    if not sample:
        return {}, []
    images = source.images
    tables = [table for table in [*source.tables, *source.coco.tables] if table.path != sample.path]
    ids, detection = find_sample_images(images, sample, config.data, source.coco.file_names, tables)
    roots = set(images.loc[list(ids), "root"]) - {""}
    is_test = images["role"].isin(["test", "predict"]) & images["root"].isin(roots)
    unlisted = images.loc[is_test & ~images.index.isin(list(ids)), "path"].str.split("/").str[-1]
    test = Detection("test", format_count(len(ids), "image"), (
        f"ids of {sample.path}; {format_count(len(unlisted), 'other')} in the same folder"))
    return dict(zip(unlisted.index.tolist(), unlisted, strict=True)) | ids, [detection, test]


def _find_labels(source: _Source, sample: Table | None, test_ids: Mapping[int, str], config: Config) -> Labeled:
    tables = [table for table in source.tables
              if not is_sample(table.path) and not (sample and table.path == sample.path)]
    errors = {path: error for path, error in source.errors.items() if not is_sample(path)}
    return find_labels(Evidence(
        source.images.drop(index=list(test_ids)), [*tables, *source.coco.tables], source.lists, source.other_lists,
        errors, [*source.files.others, *source.files.ignored], source.coco.unread, targets(sample),
        source.files.masks, config.data))


def _find_unlabeled(source: _Source, labeled: Labeled, config: Config) -> tuple[dict[int, str], Detection]:
    images = source.images.drop(index=labeled.labels.values.index)
    rows, evidence = find_test_images(images, source.tables, config.data)
    if not rows and len(labeled.subsets.unlabeled):
        rows, evidence = set(labeled.subsets.unlabeled), "unlabeled images of the test subset of a column or a list"
    names = images.loc[sorted(rows), "path"].str.split("/").str[-1]
    detection = Detection("test", format_count(len(rows), "image") if rows else "none", evidence)
    return dict(zip(names.index.tolist(), names, strict=True)), detection


def _name_classes(source: _Source, labeled: Labeled, config: Config) -> tuple[dict[str, str], Detection]:
    # A table whose ids are the labels names the classes, also if images are called 0.jpg and 1.jpg.
    labels = labeled.labels
    classes = set(labels.values) - {""}
    used = {joined.table.path for joined in labeled.joined if {*joined.match.rows, *joined.match.ambiguous} != classes}
    tables = [table for table in source.tables
              if table.path not in used and not is_sample(table.path) and not has_image_names(table)]
    known = labels.names or source.coco.categories
    maps = [("the class folders" if labels.names else "COCO JSON", known), *read_maps(source.json, tables)]
    return find_class_names(classes, config.data.class_names, maps)


def _assemble(
    source: _Source, train: pd.DataFrame, test_ids: Mapping[int, str], names: Mapping[str, str]
) -> pd.DataFrame:
    """Return the images of a layout: labeled images, test images and extra data."""
    test = source.images.loc[list(test_ids), ["path"]].assign(id=list(test_ids.values()), label="", source="test")
    extra = pd.DataFrame({"path": list(source.files.extra)}, dtype="object")
    labels = extra["path"].map(lambda path: path.split("/")[2] if path.count("/") > 2 else "")  # noqa: PLR2004
    labels = labels.map({name: name for name in names.values()} | dict(names)).fillna("")
    extra = extra.assign(id=extra["path"], label=labels, source="extra")
    file_names = train["path"].str.split("/").str[-1].map(normalized)
    train = train.assign(id=file_names.mask(file_names.duplicated(keep=False), train["path"]))
    images = pd.concat([train, test, extra])[["id", "path", "label", "source", "group"]].fillna({"group": ""})
    return images.sort_values("path", ignore_index=True).astype("str")


def _ignored(source: _Source, images: pd.DataFrame) -> tuple[str, ...]:
    used = set(images["path"])
    paths = [f"{folder}/{name}".lstrip("/") for folder, names in source.files.images.items() for name in names]
    return tuple(sorted({*(path for path in paths if path not in used), *source.files.others, *source.files.ignored}))


def _find_problems(source: _Source, images: pd.DataFrame) -> list[Finding]:
    """Return the findings about files: duplicates, empty class folders, ignored images, extra data of other classes."""
    findings = [Finding("ignored_data", folder, "The folder is ignored: the same files are one level higher.")
                for folder in source.files.duplicates]
    if masks := source.files.masks:
        findings.append(Finding("ignored_data", masks[0], (
            f"{format_count(len(masks), 'file is', 'files are')} called like masks or copies of the images (first: "
            f"{masks[0]}), and not used. If they are other images, rename them or their folder.")))
    findings += [Finding("ignored_data", path, f"The path is ignored: {reason}.")
                 for path, reason in source.files.ignored.items() if reason]
    roots = set(training_images(source.images)["root"])
    for folder in source.files.empty:
        path = source.files.collapsed[folder]
        if path.rpartition("/")[0] in roots:
            findings.append(Finding("empty_class_folder", folder, (
                f"The folder has no images that can be read: no model can predict class '{path.rpartition('/')[2]}'.")))
    misplaced = images.loc[(images["source"] == "extra") & (images["label"] == ""), "path"]
    if len(misplaced):
        findings.append(Finding("unknown_class", misplaced.iloc[0], (
            f"{format_count(len(misplaced), 'image of the extra data is', 'images of the extra data are')} not in the "
            f"folder of a class (first: {misplaced.iloc[0]}). Move each into the folder of its class, or remove it.")))
    return findings + find_other_formats([*source.files.others, *source.files.ignored])


def _find_guesses(labeled: Labeled) -> list[Finding]:
    tables = [joined.table for joined in labeled.joined if joined.table.guessed_encoding]
    return [Finding("guessed_encoding", table.path, (
        f"The table is not UTF-8. It was read as {table.guessed_encoding}, which is a guess: {_first_word(table)!r}. "
        "If that is wrong, save the table as UTF-8.")) for table in tables]


def _find_unnamed(source: _Source, named: Detection) -> list[Finding]:
    return [Finding("unnamed_classes", path, (
        "The categories do not have a different name each, so the classes are called by their ids. Correct the names, "
        "or set data.class_names.")) for path in source.coco.unnamed if named.evidence == "labels"]


def _first_word(table: Table) -> str:
    return next(str(cell) for cell in [*table.rows.columns, *table.rows.to_numpy().flat] if not cell.isascii())


def _describe_submission(submission: SubmissionFormat | None) -> Detection:
    if submission is None:
        return Detection("submission", "none", "no table is named like a sample submission")
    columns = ",".join(submission.header)
    positive = f" of {submission.positive_class}" if submission.positive_class else ""
    return Detection("submission", submission.kind + positive, f"{submission.sample} has the columns {columns[:200]}")
