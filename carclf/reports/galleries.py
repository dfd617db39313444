"""What a dataset's report shows as thumbnails: samples, problems, groups of copies, suspected labels; all bounded."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from carclf.formatting import truncate
from carclf.reports.thumbnails import Thumbnails

# What bounds the page: about 1000 thumbnails of 5 kB at most, however large the dataset is.
MAX_CLASSES, SAMPLES_OF_A_CLASS = 40, 8
MAX_KINDS, PICTURES_OF_A_KIND = 16, 8
MAX_CLUSTERS, PICTURES_OF_A_CLUSTER = 24, 6
MAX_SUSPECTS, MAX_TEXT = 96, 300


@dataclass(frozen=True)
class Picture:
    """A thumbnail ("" where there is none), the picture's name and what is said of it."""

    image: str
    name: str
    note: str


@dataclass(frozen=True)
class Gallery:
    """Pictures that belong together; ``num_more`` are not shown."""

    title: str
    pictures: list[Picture]
    num_more: int


@dataclass(frozen=True)
class Galleries:
    """Some galleries; ``num_more`` are not shown."""

    shown: list[Gallery]
    num_more: int


def class_galleries(index: pd.DataFrame, show: Thumbnails) -> Galleries:
    """Some pictures of each class, in the order of their content: as if drawn at random, and the same each time."""
    usable = index[(index["label"] >= 0) & (index["problem"] == "")].sort_values("sha256")
    shown = [_gallery(f"Class {label}", usable[usable["label"] == label], None, SAMPLES_OF_A_CLASS, show)
             for label in sorted(usable["label"].unique())[:MAX_CLASSES]]
    return Galleries(shown, usable["label"].nunique() - len(shown))


def galleries_by_message(index: pd.DataFrame, column: str, show: Thumbnails) -> Galleries:
    """Pictures with a problem or a warning; those whose text differs in numbers only together, commonest first."""
    rows = index[index[column] != ""] if column in index else index.head(0)
    kinds = rows.get(column, pd.Series(dtype=str)).map(lambda text: re.sub(r"\d+(\.\d+)?", "…", text))
    order = kinds.value_counts()
    shown = [_gallery(f"{truncate(str(kind), MAX_TEXT)} ({num})", rows[kinds == kind], column, PICTURES_OF_A_KIND, show)
             for kind, num in order.head(MAX_KINDS).items()]
    return Galleries(shown, len(order) - len(shown))


def duplicate_galleries(index: pd.DataFrame, show: Thumbnails) -> tuple[Galleries, Galleries]:
    """Groups of copies and near-copies: those under several classes, and the others, train with test first."""
    usable = index[index["problem"] == ""]
    column = "cluster" if "cluster" in usable else "sha256"
    repeated = usable[usable[column].duplicated(keep=False)]
    known = repeated["label"].where(repeated["label"] >= 0)
    table = repeated.assign(known=known).groupby(column).agg(
        num_classes=("known", "nunique"), first=("label", "min"), num=("label", "size")
    )
    # one group at a time out of an index: a dataset may have ten thousands of groups
    positions = repeated.groupby(column).indices
    split = table["num_classes"] > 1
    several, one = (list(part.sort_values(["first", "num"], ascending=[True, False]).index)
                    for part in (table[split], table[~split]))
    return _of_clusters(several, positions, repeated, show), _of_clusters(one, positions, repeated, show)


def _of_clusters(order: list[Any], positions: Any, rows: pd.DataFrame, show: Thumbnails) -> Galleries:
    shown = [_of_cluster(rows.iloc[positions[cluster]], show) for cluster in order[:MAX_CLUSTERS]]
    return Galleries(shown, len(order) - len(shown))


def _of_cluster(members: pd.DataFrame, show: Thumbnails) -> Gallery:
    content = "pixels_sha256" if "pixels_sha256" in members else "sha256"
    kind = "copies" if members[content].nunique() == 1 else "near-copies"
    both = " in train and test" if members["label"].min() < 0 <= members["label"].max() else ""
    members = members.assign(note=[f"class {label}" if label >= 0 else "test" for label in members["label"]])
    return _gallery(f"{len(members)} {kind}{both}", members, "note", PICTURES_OF_A_CLUSTER, show)


def suspect_gallery(suspects: pd.DataFrame, show: Thumbnails) -> Gallery:
    """The first of the suspected labels, with their rank: given → suggested."""
    columns = zip(suspects["label"], suspects["suggested_label"], suspects["label_quality"], strict=True)
    notes = [f"{rank}. {given} → {suggested} · {score:.3f}"
             for rank, (given, suggested, score) in enumerate(columns, start=1)]
    return _gallery("", suspects.assign(note=notes), "note", MAX_SUSPECTS, show)


def _gallery(title: str, rows: pd.DataFrame, column: str | None, limit: int, show: Thumbnails) -> Gallery:
    first = rows.head(limit)
    notes: Iterable[str] = first[column] if column else [""] * len(first)
    pictures = [Picture(show(path), truncate(path, MAX_TEXT), truncate(note, MAX_TEXT))
                for path, note in zip(first["path"], notes, strict=True)]
    return Gallery(title, pictures, len(rows) - len(first))
