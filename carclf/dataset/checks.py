"""Checks of a dataset as a whole. One message with all errors stops the run."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import PurePosixPath

import pandas as pd

from carclf.config import Validation
from carclf.dataset.archive_members import UNSUPPORTED_SUFFIXES
from carclf.dataset.detection.result import Layout
from carclf.dataset.findings import Finding, Findings, describe_missing_images, format_labels
from carclf.dataset.image_checks import (
    CheckContext,
    check_images,
    conflicting_clusters,
    duplicate_test_ids,
)
from carclf.dataset.layout import IMAGE_SUFFIXES
from carclf.dataset.splits import describe_missing_classes
from carclf.errors import DataError
from carclf.formatting import format_count
from carclf.natural_order import sort_naturally

MIN_CLASSES = 2
_DOWNLOAD_AGAIN = "If the data were downloaded, a new run with --set force=true downloads them again."


def file_findings(layout: Layout) -> Iterator[Finding]:
    """Yield the findings of the layout, and the files that are not used."""
    yield from layout.findings
    images = []
    for name in sorted(set(layout.ignored) - {finding.path for finding in layout.findings}):
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in UNSUPPORTED_SUFFIXES:
            yield Finding("ignored_data", name, "Archives of this type are not read: its content is ignored.")
        elif suffix in IMAGE_SUFFIXES:
            images.append(name)
        else:
            yield Finding("ignored_file", name, "The file is ignored: it is neither an image nor a used table.")
    for folder, names in groupby(images, lambda name: name.rpartition("/")[0]):
        paths = list(names)
        yield Finding("ignored_data", paths[0], (
            f"{format_count(len(paths), 'image is', 'images are')} ignored in {folder or 'the top folder'}: without a "
            f"label, and not in the test set (first: {paths[0]})."))


def check_layout(layout: Layout, config: Validation) -> list[Finding]:
    """Return what is known to be wrong before the images are read: problems of files, classes and subsets."""
    context = CheckContext(layout, config)
    distinct = layout.images.assign(problem="", cluster=range(len(layout.images)))
    sizes = [finding for finding in _check_class_sizes(distinct, context) if finding.severity == "error"]
    findings = [*file_findings(layout), *_check_training_images(layout.images), *sizes,
                *_check_test_images(layout.images, context)]
    given = set(layout.images.loc[layout.images["source"] == "val", "label"])
    if given and (problem := describe_missing_classes(layout.class_names, given)):
        findings.append(Finding("empty_class", "", problem))
    return findings


def find_problems(index: pd.DataFrame, context: CheckContext) -> Findings:
    """Return all findings of an index with clusters, about single images and about the whole dataset."""
    findings = Findings(check_images(index, context))
    for check in (_check_unusable_fraction, _check_unreadable_test_images, _check_classes, _check_class_sizes,
                  _check_test_images):
        findings.add(check(index, context))
    findings.add(_check_training_images(index))
    return findings


def raise_on_errors(findings: Findings) -> None:
    """Raise one DataError with the messages of all errors, if there are any."""
    if findings.errors:
        raise DataError(" ".join(findings.errors))


def _check_unusable_fraction(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    train = index[index["source"] != "test"]
    is_unusable = (train["problem"] != "") & (train["problem_kind"] != "dropped")
    if (fraction := is_unusable.mean()) > context.config.max_unusable_fraction:
        first = train[is_unusable].iloc[0]
        yield Finding("too_many_unusable_images", "", (
            f"{fraction:.1%} of the training images are unusable (first: {first['path']}, {first['problem']}), more "
            f"than {context.config.max_unusable_fraction:.1%}. Fix the archive or raise "
            "validation.max_unusable_fraction."))


def _check_unreadable_test_images(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    unreadable = unreadable_test_images(index, context)
    num_test, limit = len(context.layout.test_ids), context.config.max_unreadable_test_fraction
    if len(unreadable) > limit * num_test:
        first = unreadable.iloc[0]
        yield Finding("too_many_unreadable_test_images", "", (
            f"{len(unreadable)} of {format_count(num_test, 'test image')} cannot be read (first: {first['path']}, "
            f"{first['problem']}), more than {limit:.1%}. Their predictions would be arbitrary. Fix the archive or "
            "raise validation.max_unreadable_test_fraction."))


def unreadable_test_images(index: pd.DataFrame, context: CheckContext) -> pd.DataFrame:
    """Return the rows of the test images that need a prediction but cannot be read."""
    is_listed = index["id"].isin(context.layout.test_ids)
    return index[(index["source"] == "test") & (index["problem"] != "") & is_listed]


def _check_classes(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    expected = set(context.layout.class_names)
    labeled = index[index["label"] != ""]
    for label, rows in labeled[~labeled["label"].isin(expected)].groupby("label"):
        yield Finding("unknown_class", rows["path"].iloc[0], (
            f"{format_count(len(rows), 'image is', 'images are')} in class {label!r} (first: {rows['path'].iloc[0]}), "
            f"which the data do not have. The classes are {format_labels(expected)}. Move or remove what is in this "
            "class."))
    for label in sort_naturally(expected - set(labeled["label"])):
        yield Finding("empty_class", label, (
            f"Class {label!r} has no images. Add some, or remove the class. {_DOWNLOAD_AGAIN}"))


def _check_training_images(images: pd.DataFrame) -> Iterator[Finding]:
    """Yield a finding about classes that only the labeled test images have, or only the given validation images."""
    labels = {source: set(rows["label"]) - {""} for source, rows in images.groupby("source")}
    for source, noun in (("val", "validation"), ("holdout", "test")):
        if missing := labels.get(source, set()) - labels.get("train", set()) - labels.get("extra", set()):
            yield Finding("empty_class", min(missing), (
                f"{format_count(len(missing), 'class has', 'classes have')} {noun} images, but no training images: "
                f"{format_labels(missing)}. Add training images of each, or remove its {noun} images."))


def _check_class_sizes(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    min_images = context.config.min_images_per_class
    sizes = _class_sizes(index, set(context.layout.class_names))
    small = sizes[sizes < min_images]
    if len(small):
        shown = format_labels(f"{label} ({size})" for label, size in small.items())
        yield Finding("too_few_images", str(small.index[0]), (
            f"{format_count(len(small), 'class has', 'classes have')} fewer than {min_images} usable images (without "
            f"copies): {shown}. Add images or lower validation.min_images_per_class."))
    if len(sizes) < MIN_CLASSES:
        yield Finding("too_few_classes", "", (
            f"The data have {format_count(len(sizes), 'class', 'classes')}, at least {MIN_CLASSES} are needed."))
    large_enough = sizes[sizes >= min_images]
    if len(large_enough) and large_enough.max() > context.config.max_imbalance * large_enough.min():
        yield Finding("class_imbalance", "", (
            f"Class '{large_enough.idxmax()}' has {format_count(large_enough.max(), 'usable image')}, class "
            f"'{large_enough.idxmin()}' only {large_enough.min()}, so the accuracy hardly depends on it. Add images to "
            "the small class."))


def _class_sizes(index: pd.DataFrame, labels: set[str]) -> "pd.Series[int]":
    """Return the number of usable images by label.

    The copies of an image count as one: a split has them in one subset. Copies with conflicting labels do not count.
    """
    train = index[index["label"].isin(labels) & (index["source"] != "holdout")]
    countable = train[(train["problem"] == "") & ~train["cluster"].isin(conflicting_clusters(train))]
    sizes = countable.groupby("label")["cluster"].nunique()
    return sizes.reindex(sort_naturally(train["label"]), fill_value=0)


def _check_test_images(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    if context.layout.submission is None:
        return
    sample = context.layout.submission.sample
    ids, names = pd.Series(context.layout.test_ids, dtype="str"), index.loc[index["source"] == "test", "id"]
    missing = ids[~ids.isin(names)]
    if len(missing):
        yield Finding("missing_test_image", missing.iloc[0], (
            f"{describe_missing_images(missing.tolist(), len(ids), sample)} The first test image is "
            f"{names.iloc[0] if len(names) else 'none'!r}. The archive is incomplete, or its file names have another "
            f"form or encoding. {_DOWNLOAD_AGAIN}"))
    duplicates = index.loc[duplicate_test_ids(index), "path"]
    if len(duplicates):
        yield Finding("duplicate_test_id", duplicates.iloc[0], (
            f"{format_count(len(duplicates), 'test image has', 'test images have')} the name of another one (first: "
            f"{duplicates.iloc[0]}), so their ids in {sample} are ambiguous. Set data.test_folder."))
