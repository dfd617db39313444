"""What is wrong with a dataset as a whole, and everything that is found in it; errors stop the run together."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from carclf.config import Validation
from carclf.dataset.findings import Finding, Findings, format_labels
from carclf.dataset.image_checks import CheckContext, check_images, conflicting_clusters, duplicate_test_ids
from carclf.dataset.label_table import read_sample_submission, read_train_csv
from carclf.errors import DataError


def read_context(folder: Path, config: Validation) -> tuple[CheckContext, list[Finding]]:
    """The folder's tables for the checks, and what is wrong with train.csv. DataError for a bad sample."""
    table = read_train_csv(folder)
    if isinstance(table, str):
        return CheckContext(read_sample_submission(folder), None, config), [Finding("invalid_train_csv", "train.csv", table)]
    return CheckContext(read_sample_submission(folder), table, config), []


def find_problems(index: pd.DataFrame, context: CheckContext) -> Findings:
    """Everything that is found in an index with its clusters, about single pictures and about the whole."""
    findings = Findings(check_images(index, context))
    for check in (_shares, _classes, _counts, _test):
        findings.add(check(index, context))
    return findings


def raise_on_errors(findings: Findings) -> None:
    """Raise DataError, naming every error at once, where training on this data would be wrong."""
    if findings.errors:
        raise DataError(" ".join(findings.errors))


def _shares(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    bad = (index["problem"] != "") & (index["problem_kind"] != "dropped")
    if (share := bad.mean()) > context.config.max_unusable_fraction:
        first = index[bad].iloc[0]
        yield Finding("too_many_unusable_images", "", (
            f"{share:.1%} of the images are unusable (first: {first['path']}, {first['problem']}); at most "
            f"{context.config.max_unusable_fraction:.1%} are allowed. Mend the archive or raise "
            "validation.max_unusable_fraction."))


def expected_labels(index: pd.DataFrame, context: CheckContext) -> set[int]:
    """The competition's classes: those of train.csv, and without one those of the folders under train/."""
    if context.table is not None:
        return set(context.table["Category"])
    return set(index.loc[(index["source"] == "train") & (index["label"] >= 0), "label"])


def _classes(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    formless = index[(index["source"] != "test") & (index["label"] < 0)]
    if len(formless):
        yield Finding("unknown_class", formless["path"].iloc[0], (
            f"{len(formless)} files are not of the form train/<class number>/<name>, the first "
            f"{formless['path'].iloc[0]}. Is this the right competition?"))
    known = expected_labels(index, context)
    labelled = index[index["label"] >= 0]
    for label, rows in labelled[~labelled["label"].isin(known)].groupby("label"):
        yield Finding("unknown_class", rows["path"].iloc[0], (
            f"{len(rows)} images are in class '{label}' (the first: {rows['path'].iloc[0]}), which the competition "
            f"does not have; its classes are {format_labels(known)}. Move or remove them."))
    for label in sorted(known - set(labelled["label"])):
        yield Finding("empty_class", str(label), (
            f"Class '{label}' of train.csv has no images at all. The archive is incomplete: download it again (force)."
        ))


def _counts(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    config, known = context.config, expected_labels(index, context)
    train = index[(index["label"] >= 0) & index["label"].isin(known)]
    # Copies are one picture: they stand on one side of the split together. Copies under two labels are none.
    clear = train[(train["problem"] == "") & ~train["cluster"].isin(conflicting_clusters(train))]
    counts = clear.groupby("label")["cluster"].nunique().reindex(sorted(train["label"].unique()), fill_value=0)
    for label, count in counts[counts < config.min_images_per_class].items():
        yield Finding("too_few_images", str(label), (
            f"Class '{label}' has {count} usable images, copies not counted; at least {config.min_images_per_class} "
            "are needed. Add images or lower validation.min_images_per_class."))
    if len(counts) < 2:
        yield Finding("too_few_classes", "", f"{len(counts)} classes under train/; at least 2 are needed.")
    enough = counts[counts >= config.min_images_per_class]
    if len(enough) and enough.max() > config.max_imbalance * enough.min():
        yield Finding("class_imbalance", "", (
            f"Class '{enough.idxmax()}' has {enough.max()} usable images, class '{enough.idxmin()}' only "
            f"{enough.min()}: the accuracy says little of the smaller one. Add images to it."))


def _test(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    test = index[index["source"] == "test"]
    lost = context.sample.loc[~context.sample["Id"].isin(test["id"]), "Id"]
    if len(lost):
        yield Finding("missing_test_image", lost.iloc[0], (
            f"{len(lost)} ids of sample-submission.csv have no image in test_upload/, the first {lost.iloc[0]!r}. The "
            "archive is incomplete: download it again (force)."))
    twice = index[duplicate_test_ids(index)]
    if len(twice):
        yield Finding("duplicate_test_id", twice["path"].iloc[0], (
            f"{len(twice)} images under test_upload/ share their name with another one there, the first "
            f"{twice['path'].iloc[0]}: which one an id of the sample means cannot be known."))
