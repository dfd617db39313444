"""Checks of a dataset as a whole. One message with all errors stops the run."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pandas as pd

from carclf.config import Validation
from carclf.dataset.archive_members import UNSUPPORTED_SUFFIXES
from carclf.dataset.archives import read_ignored_files
from carclf.dataset.competition_tables import read_sample_submission, read_train_csv
from carclf.dataset.findings import Finding, Findings, format_labels
from carclf.dataset.image_checks import (
    CheckContext,
    check_images,
    conflicting_clusters,
    duplicate_test_ids,
    file_names,
    is_repeated,
)
from carclf.dataset.layout import IMAGE_SUFFIXES, match_ids
from carclf.errors import DataError

MIN_CLASSES = 2


def read_context(folder: Path, config: Validation) -> tuple[CheckContext, list[Finding]]:
    """Return the tables that the checks need, and the findings that no image shows: about files and empty folders.

    Raises DataError if sample-submission.csv is missing or invalid.
    """
    sample_submission = read_sample_submission(folder)
    findings = [*_check_ignored_files(folder), *_check_empty_folders(folder)]
    try:
        return CheckContext(sample_submission, read_train_csv(folder), config), findings
    except DataError as error:  # the folders define the classes, train.csv only confirms them
        finding = Finding("invalid_train_csv", "train.csv", f"{error} The classes of the folders are used unchecked.")
        return CheckContext(sample_submission, None, config), [*findings, finding]


def _check_ignored_files(folder: Path) -> Iterator[Finding]:
    for name in read_ignored_files(folder):
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in UNSUPPORTED_SUFFIXES:
            yield Finding("ignored_data", name, "Archives of this type are not read: its content is ignored.")
        elif suffix in IMAGE_SUFFIXES:
            yield Finding("ignored_data", name, "The image is ignored: it is not under train/ or test_upload/.")
        else:
            yield Finding("ignored_file", name, "The file is ignored: it is not an image of the competition.")


def _check_empty_folders(folder: Path) -> Iterator[Finding]:
    for path in sorted(folder.glob("train/*")):
        if re.fullmatch("[0-9]+", path.name) and not any(path.iterdir()):
            yield Finding("empty_class_folder", f"train/{path.name}", (
                f"The folder is empty: class '{path.name}' has no images, and no model can predict it."))


def find_problems(index: pd.DataFrame, context: CheckContext) -> Findings:
    """Return all findings of an index with clusters, about single images and about the whole dataset."""
    findings = Findings(check_images(index, context))
    for check in (_check_unusable_fraction, _check_unreadable_test_images, _check_classes, _check_class_folders,
                  _check_class_sizes, _check_train_csv, _check_test_images):
        findings.add(check(index, context))
    return findings


def raise_on_errors(findings: Findings) -> None:
    """Raise one DataError with the messages of all errors, if there are any."""
    if findings.errors:
        raise DataError(" ".join(findings.errors))


def with_final_ids(index: pd.DataFrame, sample_submission: pd.DataFrame) -> pd.DataFrame:
    """Return the index with the ids that later stages use.

    Those of test images are as the sample submission writes them. Training images of the same name have their path.
    """
    is_test = index["source"] == "test"
    matches = match_ids(sample_submission["Id"].tolist(), index.loc[is_test, "id"])
    id_by_name = {name: image_id for image_id, name in matches.items()}
    ids = index["id"].mask(is_test, index["id"].map(id_by_name).fillna(index["id"]))
    return index.assign(id=ids.mask(is_repeated(index["id"], index["source"] == "train"), index["path"]))


def expected_labels(index: pd.DataFrame, context: CheckContext) -> set[int]:
    """Return the competition's classes: those of train.csv, or of the folders under train/ if it matches no image."""
    train = index[index["source"] == "train"]
    if context.train_csv is not None and match_ids(context.train_csv["Id"].tolist(), file_names(train)):
        return set(context.train_csv["Category"])
    return set(train.loc[train["label"] >= 0, "label"])


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
    num_test, limit = len(context.sample_submission), context.config.max_unreadable_test_fraction
    if len(unreadable) > limit * num_test:
        first = unreadable.iloc[0]
        yield Finding("too_many_unreadable_test_images", "", (
            f"{len(unreadable)} of {num_test} test images cannot be read (first: {first['path']}, {first['problem']}), "
            f"more than {limit:.1%}. Their predictions would be arbitrary. Fix the archive or raise "
            "validation.max_unreadable_test_fraction."))


def unreadable_test_images(index: pd.DataFrame, context: CheckContext) -> pd.DataFrame:
    """Return the rows of the test images that need a prediction but cannot be read."""
    is_listed = index["id"].isin(context.sample_submission["Id"])
    return index[(index["source"] == "test") & (index["problem"] != "") & is_listed]


def _check_classes(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    misplaced = index.loc[(index["source"] != "test") & (index["label"] < 0), "path"]
    if len(misplaced):
        yield Finding("unknown_class", misplaced.iloc[0], (
            f"{len(misplaced)} paths are not of the form train/<class number>/<name> (first: {misplaced.iloc[0]}). Is "
            "this the right competition?"))
    expected = expected_labels(index, context)
    labeled = index[index["label"] >= 0]
    for label, rows in labeled[~labeled["label"].isin(expected)].groupby("label"):
        yield Finding("unknown_class", rows["path"].iloc[0], (
            f"{len(rows)} images are in class '{label}' (first: {rows['path'].iloc[0]}), which the competition does "
            f"not have. Its classes are {format_labels(expected)}. Move or remove these images."))
    for label in sorted(expected - set(labeled["label"])):
        yield Finding("empty_class", str(label), (
            f"Class '{label}' of train.csv has no images. The archive is incomplete: download it again with --set "
            "force=true."))


def _check_class_folders(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    """Yield the classes whose number is written in several ways, such as train/1 and train/01."""
    folders = index["path"].str.extract(r"^(?P<path>(?:train|extra/[0-9]+)/(?P<name>[0-9]+))/[^/]+$").dropna()
    for _, rows in folders.groupby(folders["name"].astype(int)):
        if rows["name"].nunique() > 1:
            paths = sorted(rows["path"].unique())
            yield Finding("ambiguous_class", paths[0], (
                f"The folders {', '.join(paths)} have the same class number. Merge them if they are the same class, or "
                "give each class a number of its own."))


def _check_train_csv(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    if context.train_csv is None:
        return
    table, names = context.train_csv["Id"], file_names(index[index["source"] == "train"])
    matches = match_ids(table.tolist(), names)
    unmatched, unlisted = table[~table.isin(list(matches))], names[~names.isin(list(matches.values()))]
    if len(unmatched):
        yield Finding("unmatched_train_csv", "train.csv", (
            f"{len(unmatched)} of {len(table)} ids match no image under train/ (first: {unmatched.iloc[0]!r}; the "
            f"first image is {names.iloc[0] if len(names) else 'none'!r}). Their classes are not used."))
    if len(unlisted):
        yield Finding("unmatched_train_csv", "train.csv", (
            f"{len(unlisted)} of {len(names)} images under train/ are not in the table (first: {unlisted.iloc[0]!r}). "
            "The classes of their folders are used unchecked."))


def _check_class_sizes(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    min_images = context.config.min_images_per_class
    sizes = _class_sizes(index, expected_labels(index, context))
    for label, size in sizes[sizes < min_images].items():
        yield Finding("too_few_images", str(label), (
            f"Class '{label}' has {size} usable images (without copies), fewer than {min_images}. Add images or lower "
            "validation.min_images_per_class."))
    if len(sizes) < MIN_CLASSES:
        yield Finding("too_few_classes", "", f"train/ has {len(sizes)} classes, at least {MIN_CLASSES} are needed.")
    large_enough = sizes[sizes >= min_images]
    if len(large_enough) and large_enough.max() > context.config.max_imbalance * large_enough.min():
        yield Finding("class_imbalance", "", (
            f"Class '{large_enough.idxmax()}' has {large_enough.max()} usable images, class '{large_enough.idxmin()}' "
            f"only {large_enough.min()}, so the accuracy hardly depends on it. Add images to the small class."))


def _class_sizes(index: pd.DataFrame, labels: set[int]) -> "pd.Series[int]":
    """Return the number of usable images by label.

    The copies of an image count as one: a split has them in one subset. Copies with conflicting labels do not count.
    """
    train = index[(index["label"] >= 0) & index["label"].isin(labels)]
    countable = train[(train["problem"] == "") & ~train["cluster"].isin(conflicting_clusters(train))]
    sizes = countable.groupby("label")["cluster"].nunique()
    return sizes.reindex(sorted(train["label"].unique()), fill_value=0)


def _check_test_images(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    ids, names = context.sample_submission["Id"], index.loc[index["source"] == "test", "id"]
    missing = ids[~ids.isin(names)]
    if len(missing):
        yield Finding("missing_test_image", missing.iloc[0], (
            f"{len(missing)} ids of sample-submission.csv have no image in test_upload/ (first: {missing.iloc[0]!r}; "
            f"the first image is {names.iloc[0] if len(names) else 'none'!r}). The archive is incomplete, or its file "
            "names have another form or encoding. Start a new run with --set force=true to download it again."))
    duplicates = index.loc[duplicate_test_ids(index), "path"]
    if len(duplicates):
        yield Finding("duplicate_test_id", duplicates.iloc[0], (
            f"{len(duplicates)} images under test_upload/ share their name with another image (first: "
            f"{duplicates.iloc[0]}), so their ids in sample-submission.csv are ambiguous."))
