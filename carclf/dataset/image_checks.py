"""Checks of single images in an index. Each check yields findings about some of the rows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from carclf.config import Validation
from carclf.dataset.detection.result import Layout
from carclf.dataset.findings import Finding
from carclf.images.color import HIGH_BIT_DEPTH_MODES

MAD_TO_STANDARD_DEVIATION = 1.4826  # of a normal distribution
# Outliers must also exceed the mild limits. Images beyond the strict limits are reported even if all images are alike.
# Measured on cars10 (brightness 31 to 191, contrast 22 to 104) and on its images darkened, brightened and blurred.
MAX_DARK, STRICT_MAX_DARK = 60, 15
MIN_BRIGHT, STRICT_MIN_BRIGHT = 200, 245
MIN_CONTRAST = 6
MAX_BLURRED_FRACTION = 0.5  # of the median sharpness
STRICT_MAX_BLURRED = 0.03
# If all images are alike, the measured spread is about zero and would make every other image an outlier.
MIN_BRIGHTNESS_SPREAD = 4.0
MIN_LOG_SHARPNESS_SPREAD = 0.1
MIN_SHARPNESS = 1e-6  # before taking the logarithm


@dataclass(frozen=True)
class CheckContext:
    """The layout and the settings, passed to every check."""

    layout: Layout
    config: Validation


Check = Callable[[pd.DataFrame, CheckContext], Iterator[Finding]]


def _findings(kind: str, rows: pd.DataFrame, message: str) -> Iterator[Finding]:
    """Yield a finding for each row; the message is a format string with the fields of ``row``."""
    for row in rows.itertuples(index=False):
        yield Finding(kind, str(row.path), message.format(row=row))


def check_problems(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    """Yield the images with a problem, by its kind."""
    # Images without a known class are an error of the whole dataset, reported by carclf.dataset.checks.
    unusable = index[(index["problem"] != "") & (index["problem_kind"] != "unknown_class")]
    for kind, rows in unusable.groupby("problem_kind"):
        yield from _findings(str(kind), rows, "{row.problem}")


def check_formats(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    """Yield images that are converted while they are decoded, and JPEGs that the strict decoder rejects."""
    rows = index[index["problem"] == ""]
    has_jpeg_name = rows["path"].str.lower().str.endswith((".jpg", ".jpeg"))
    is_deep = rows["mode"].isin(HIGH_BIT_DEPTH_MODES)
    is_rgb = (rows["mode"] == "RGB") & ~rows["is_transparent"]
    yield from _findings("wrong_file_extension", rows[has_jpeg_name & (rows["format"] != "JPEG")],
                         "The file is a {row.format} with the extension of a JPEG.")
    yield from _findings("non_rgb_mode", rows[is_deep],
                         "The color mode is {row.mode}; the gray values are stretched to 0 to 255.")
    yield from _findings("non_rgb_mode", rows[~is_deep & ~is_rgb & rows["is_transparent"]],
                         "The color mode is {row.mode}, converted to RGB on a white background.")
    yield from _findings("non_rgb_mode", rows[~is_deep & ~is_rgb & ~rows["is_transparent"]],
                         "The color mode is {row.mode}, converted to RGB.")
    yield from _findings("exif_orientation", rows[rows["has_exif_orientation"]],
                         "The EXIF data rotate or flip the image.")
    yield from _findings("damaged", rows[rows["decode_warning"] != ""],
                         "Parts of the image are damaged and may be displayed incorrectly.")


def check_aspect_ratio(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    """Yield usable images that are far wider than high, or far higher than wide."""
    sides = index[["width", "height"]]
    ratio = sides.max(axis=1) / sides.min(axis=1).clip(1)
    is_extreme = (ratio > context.config.max_aspect_ratio) & (index["problem"] == "")
    yield from _findings("extreme_aspect_ratio", index[is_extreme], "{row.width}x{row.height} is an unusual shape.")


def check_light_and_sharpness(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    """Yield dark, bright, low-contrast and blurred images, each at most once."""
    rows = index[index["problem"] == ""]
    limit = context.config.outlier_score
    brightness, sharpness = rows["brightness"], rows["sharpness"]
    brightness_score = _robust_z_score(brightness, MIN_BRIGHTNESS_SPREAD)
    sharpness_score = _robust_z_score(np.log(sharpness.clip(MIN_SHARPNESS)), MIN_LOG_SHARPNESS_SPREAD)
    is_dark = (brightness < STRICT_MAX_DARK) | ((brightness_score < -limit) & (brightness < MAX_DARK))
    is_bright = (brightness > STRICT_MIN_BRIGHT) | ((brightness_score > limit) & (brightness > MIN_BRIGHT))
    has_low_contrast = (rows["contrast"] < MIN_CONTRAST) & ~is_dark & ~is_bright
    is_blurred = (sharpness < STRICT_MAX_BLURRED) | (
        (sharpness_score < -limit) & (sharpness < MAX_BLURRED_FRACTION * sharpness.median()))
    yield from _findings("dark", rows[is_dark], "The mean brightness is {row.brightness:.0f} of 255.")
    yield from _findings("bright", rows[is_bright], "The mean brightness is {row.brightness:.0f} of 255.")
    yield from _findings("low_contrast", rows[has_low_contrast],
                         "The contrast (standard deviation of the gray values) is only {row.contrast:.1f}.")
    yield from _findings("blurred", rows[is_blurred & ~is_dark & ~is_bright & ~has_low_contrast],
                         f"The sharpness is {{row.sharpness:.2f}}, the median is {sharpness.median():.2f}.")


def _robust_z_score(values: "pd.Series[float]", min_spread: float) -> "pd.Series[float]":
    distance = values - values.median()
    return distance / max(MAD_TO_STANDARD_DEVIATION * distance.abs().median(), min_spread)


def duplicate_test_ids(index: pd.DataFrame) -> "pd.Series[bool]":
    """Return a mask of the test images that share their id with another test image."""
    is_test = index["source"] == "test"
    return is_test & index["id"].where(is_test).duplicated(keep=False)


def check_conflicting_labels(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    """Yield usable images with a copy or near-copy that has another label."""
    is_labeled = (index["label"] != "") & (index["problem"] == "")
    conflicting = index[index["cluster"].isin(conflicting_clusters(index)) & is_labeled]
    yield from _findings("conflicting_labels", conflicting, "A copy of the image has another label.")


def conflicting_clusters(index: pd.DataFrame) -> list[int]:
    """Return the sorted clusters of usable images with more than one label, at least one of which must be wrong."""
    train = index[(index["label"] != "") & (index["problem"] == "")]
    num_labels = train.groupby("cluster")["label"].nunique()
    return sorted(num_labels.index[num_labels > 1])


def check_test_ids(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    """Yield test images that are missing from the sample submission, if there is one."""
    if context.layout.submission is not None:
        is_unlisted = (index["source"] == "test") & ~index["id"].isin(context.layout.test_ids)
        yield from _findings("not_in_sample", index[is_unlisted],
                             "The image is not in the sample submission and gets no prediction.")


CHECKS: tuple[Check, ...] = (
    check_problems, check_formats, check_aspect_ratio, check_light_and_sharpness,
    check_conflicting_labels, check_test_ids,
)


def check_images(index: pd.DataFrame, context: CheckContext) -> Iterator[Finding]:
    """Yield the findings of all checks."""
    for check in CHECKS:
        yield from check(index, context)
