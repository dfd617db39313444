"""What is odd about single pictures of an index: each check yields findings about some of its rows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from carclf.config import Validation
from carclf.dataset.findings import Finding
from carclf.images.color import HIGH_BIT_DEPTH_MODES

MAD_TO_DEVIATION = 1.4826  # of a normal distribution
# An outlier must also look like one to anybody, and what does so is found in any company.
# Measured on cars10 (brightness 31 to 191, contrast 22 to 104) and on the same pictures dimmed, flooded and blurred.
DARK, VERY_DARK, BRIGHT, VERY_BRIGHT, FLAT = 60, 15, 200, 245, 6
BLURRED_SHARE, VERY_BLURRED = 0.5, 0.03  # of the median sharpness; of sharpness
SMALLEST_SPREAD = {"brightness": 4.0, "sharpness": 0.1}  # else equal pictures would make every other one an outlier


@dataclass(frozen=True)
class CheckContext:
    """What the checks need beside the index."""

    sample: pd.DataFrame
    table: pd.DataFrame | None
    config: Validation


Check = Callable[[pd.DataFrame, CheckContext], Iterator[Finding]]


def _about(kind: str, rows: pd.DataFrame, text: str) -> Iterator[Finding]:
    """A finding for each row; the text is filled with the row's columns."""
    for row in rows.itertuples(index=False):
        yield Finding(kind, str(row.path), text.format(row=row))


def unusable(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    """Pictures with a problem, by its kind."""
    # a class that cannot be known is an error of the whole dataset, and told there
    for kind, rows in index[(index["problem"] != "") & (index["problem_kind"] != "unknown_class")].groupby("problem_kind"):
        yield from _about(str(kind), rows, "{row.problem}")


def formats(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    """What decoding makes RGB and upright, and JPEGs that only a forgiving decoder reads."""
    for words, rows in index[index["problem"] == ""].groupby("format"):
        form, mode, *others = str(words).split(" ")
        named_jpeg = rows["path"].str.lower().str.endswith((".jpg", ".jpeg"))
        if form not in ("JPEG", "MPO"):
            yield from _about("wrong_file_extension", rows[named_jpeg], f"a {form} named as a JPEG")
        if mode in HIGH_BIT_DEPTH_MODES:
            yield from _about("non_rgb_mode", rows, f"its greys are {mode}, stretched to 0 to 255")
        elif mode != "RGB" or "transparent" in others:
            on_white = ", what is transparent on white" if "transparent" in others else ""
            yield from _about("non_rgb_mode", rows, f"its colours are {mode}, read as RGB{on_white}")
        if "turned" in others:
            yield from _about("turned", rows, "its EXIF data turn or mirror it")
        if "damaged" in others:
            yield from _about("damaged", rows, "parts of it are damaged and may look wrong")


def shapes(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    """Usable pictures that are far longer than wide, or wider than high."""
    sides = index[["width", "height"]]
    ratio = sides.max(axis=1) / sides.min(axis=1).clip(1)
    odd = (ratio > context.config.max_aspect_ratio) & (index["problem"] == "")
    yield from _about("extreme_aspect_ratio", index[odd], "{row.width}x{row.height} is unusually long")


def light_and_sharpness(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    """Dark, bright, flat and blurred pictures; each has one of these names at most."""
    rows = index[index["problem"] == ""]
    limit, brightness, sharpness = context.config.outlier_score, rows["brightness"], rows["sharpness"]
    score = _robust_score(brightness, SMALLEST_SPREAD["brightness"])
    blur = _robust_score(np.log(sharpness.clip(1e-6)), SMALLEST_SPREAD["sharpness"])
    dark = (brightness < VERY_DARK) | ((score < -limit) & (brightness < DARK))
    bright = (brightness > VERY_BRIGHT) | ((score > limit) & (brightness > BRIGHT))
    flat = (rows["contrast"] < FLAT) & ~dark & ~bright
    blurred = (sharpness < VERY_BLURRED) | ((blur < -limit) & (sharpness < BLURRED_SHARE * sharpness.median()))
    yield from _about("dark", rows[dark], "its mean brightness is {row.brightness:.0f} of 255")
    yield from _about("bright", rows[bright], "its mean brightness is {row.brightness:.0f} of 255")
    yield from _about("flat", rows[flat], "it has hardly any contrast ({row.contrast:.1f} of 127)")
    yield from _about("blurred", rows[blurred & ~dark & ~bright & ~flat],
                      f"its sharpness is {{row.sharpness:.2f}}, the others' median {sharpness.median():.2f}")


def _robust_score(values: pd.Series, smallest_spread: float) -> pd.Series:
    distance = values - values.median()
    return distance / max(MAD_TO_DEVIATION * distance.abs().median(), smallest_spread)


def names(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    """One name for several pictures: under two classes, in train and in test, or in the extra data."""
    name = index["path"].str.replace(r"^.*/", "", regex=True)
    extra = index["source"] == "extra"
    twice = (_repeated(name, ~extra) & ~duplicate_test_ids(index)) | _repeated(name, extra)
    yield from _about("duplicate_name", index[twice], "another picture has the same name")


def duplicate_test_ids(index: pd.DataFrame) -> pd.Series:
    """Test pictures whose id another test picture has too: which one would be predicted?"""
    return _repeated(index["id"], index["source"] == "test")


def _repeated(values: pd.Series, among: pd.Series) -> pd.Series:
    return among & values.where(among).duplicated(keep=False)


def contradictions(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    """Usable pictures of which a copy or near-copy stands under another label."""
    twice = index["cluster"].isin(conflicting_clusters(index)) & (index["label"] >= 0) & (index["problem"] == "")
    yield from _about("conflicting_labels", index[twice], "a copy of it stands under another label")


def conflicting_clusters(index: pd.DataFrame) -> list[int]:
    """The clusters of usable pictures that stand under more than one label: one of the labels is wrong for sure."""
    train = index[(index["label"] >= 0) & (index["problem"] == "")]
    labels = train.groupby("cluster")["label"].nunique()
    return sorted(labels.index[labels > 1])


def tables(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    """Test pictures that the sample does not know, and classes that differ from train.csv's."""
    strange = (index["source"] == "test") & ~index["id"].isin(context.sample["Id"])
    yield from _about("not_in_sample", index[strange], "is not in sample-submission.csv and is not predicted")
    if context.table is None:
        return
    train = index[(index["source"] == "train") & (index["label"] >= 0)]
    filed = train["path"].str.replace(r"^train/|/[^/]*$", "", regex=True).astype(int)  # before any label fix
    said = pd.MultiIndex.from_frame(context.table[["Id", "Category"]])
    agrees = pd.MultiIndex.from_arrays([train["id"], filed]).isin(said)
    differs = train[~agrees & train["id"].isin(context.table["Id"]).to_numpy()]
    yield from _about("label_mismatch", differs, "train.csv gives it another class than its folder, which counts")


CHECKS: tuple[Check, ...] = (
    unusable, formats, shapes, light_and_sharpness, names, contradictions, tables,
)


def check_images(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    """The findings of every check above."""
    for check in CHECKS:
        yield from check(index, context)
