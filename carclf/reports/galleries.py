"""Galleries of thumbnails in the dataset report: samples, problems, duplicates and suspected label errors.

Together they have at most about 1000 thumbnails of 5 kB, however large the dataset is.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from carclf.formatting import shorten, truncate
from carclf.natural_order import sort_naturally
from carclf.reports.thumbnails import Thumbnails

MAX_CLASSES, SAMPLES_PER_CLASS = 40, 8
MAX_MESSAGES, IMAGES_PER_MESSAGE = 16, 8
MAX_CLUSTERS, IMAGES_PER_CLUSTER = 24, 6
MAX_SUSPECTS = 96
MAX_TEXT = 300


@dataclass(frozen=True)
class GalleryImage:
    """A thumbnail with the name of its image and a note. ``uri`` is empty if the image cannot be decoded."""

    uri: str
    name: str
    note: str


@dataclass(frozen=True)
class Gallery:
    """Images under a title; ``num_more`` are not shown."""

    title: str
    images: list[GalleryImage]
    num_more: int


@dataclass(frozen=True)
class Galleries:
    """Several galleries; ``num_more`` are not shown."""

    shown: list[Gallery]
    num_more: int


def class_galleries(index: pd.DataFrame, thumbnails: Thumbnails) -> Galleries:
    """Return samples of each class, sorted by hash: an arbitrary but reproducible order."""
    usable = index[(index["label"] != "") & (index["problem"] == "")].sort_values("sha256").assign(note="")
    labels = sort_naturally(usable["label"])
    shown = [
        _gallery(f"Class {shorten(label)}", usable[usable["label"] == label], SAMPLES_PER_CLASS, thumbnails)
        for label in labels[:MAX_CLASSES]
    ]
    return Galleries(shown, len(labels) - len(shown))


def galleries_by_message(index: pd.DataFrame, column: str, thumbnails: Thumbnails) -> Galleries:
    """Return the images with a message in a column, ``problem`` or ``warning``, the most frequent message first.

    Messages that differ only in numbers share a gallery.
    """
    rows = index.assign(note=index.get(column, ""))
    rows = rows[rows["note"] != ""]
    messages = rows["note"].str.replace(r"\d+(\.\d+)?", "…", regex=True)
    counts = messages.value_counts()
    shown = [
        _gallery(f"{truncate(str(text), MAX_TEXT)} ({count})", rows[messages == text], IMAGES_PER_MESSAGE, thumbnails)
        for text, count in counts.head(MAX_MESSAGES).items()
    ]
    return Galleries(shown, len(counts) - len(shown))


def duplicate_galleries(index: pd.DataFrame, thumbnails: Thumbnails) -> tuple[Galleries, Galleries]:
    """Return the clusters of duplicates with contradictory labels, and all others; both with test images first."""
    usable = index[index["problem"] == ""]
    column = "cluster" if "cluster" in usable else "sha256"
    rows = usable[usable[column].duplicated(keep=False)]
    clusters = rows.assign(train_label=rows["label"].where(rows["label"] != "")).groupby(column).agg(
        num_classes=("train_label", "nunique"), first_label=("label", "min"), size=("label", "size")
    )
    clusters = clusters.sort_values(["first_label", "size"], ascending=[True, False])
    contradictory = clusters["num_classes"] > 1
    rows_by_cluster = rows.groupby(column)
    return (
        _cluster_galleries(clusters.index[contradictory], rows_by_cluster, thumbnails),
        _cluster_galleries(clusters.index[~contradictory], rows_by_cluster, thumbnails),
    )


def suspect_gallery(suspects: pd.DataFrame, thumbnails: Thumbnails) -> Gallery:
    """Return the first suspected label errors with rank, subset, label, suggested label and label quality."""
    notes = [
        f"{rank}. {row.subset}: {shorten(str(row.label))} → {shorten(str(row.suggested_label))} · "
        f"{row.label_quality:.3f}"
        for rank, row in enumerate(suspects.itertuples(), start=1)
    ]
    return _gallery("", suspects.assign(note=notes), MAX_SUSPECTS, thumbnails)


def _cluster_galleries(
    keys: "pd.Index[Any]", clusters: "pd.api.typing.DataFrameGroupBy[Any, Any]", thumbnails: Thumbnails
) -> Galleries:
    shown = [_cluster_gallery(clusters.get_group(key), thumbnails) for key in keys[:MAX_CLUSTERS]]
    return Galleries(shown, len(keys) - len(shown))


def _cluster_gallery(rows: pd.DataFrame, thumbnails: Thumbnails) -> Gallery:
    content = "pixels_sha256" if "pixels_sha256" in rows else "sha256"
    kind = "exact duplicates" if rows[content].nunique() == 1 else "near-duplicates"
    is_test = rows["source"].isin(["test", "holdout"])
    subsets = " in train and test" if is_test.nunique() > 1 else ""
    notes = [
        ", ".join(filter(None, (f"class {shorten(label)}" if label else "", "test" if test else "")))
        for label, test in zip(rows["label"], is_test, strict=True)
    ]
    rows = rows.assign(note=notes)
    return _gallery(f"{len(rows)} {kind}{subsets}", rows, IMAGES_PER_CLUSTER, thumbnails)


def _gallery(title: str, rows: pd.DataFrame, limit: int, thumbnails: Thumbnails) -> Gallery:
    """Return a gallery of the first rows, with the columns path and note."""
    first = rows.head(limit)
    images = [
        GalleryImage(thumbnails(path), truncate(path, MAX_TEXT), truncate(note, MAX_TEXT))
        for path, note in zip(first["path"], first["note"], strict=True)
    ]
    return Gallery(title, images, len(rows) - len(first))
