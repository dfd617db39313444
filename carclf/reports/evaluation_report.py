"""Render the report of an evaluation from ``evaluation.json`` and ``error_images.json``."""

from collections.abc import Mapping, Sequence
from typing import Any

from carclf.metrics import METRICS
from carclf.reports.render import MAX_CLASSES, render_template
from carclf.stats import wilson_interval

MAX_PAIRS = 20
NUM_SHADES = 9  # as in page.css


def render_evaluation(evaluation: Mapping[str, Any], error_images: Sequence[Mapping[str, str]]) -> str:
    """Return the page of the content of ``evaluation.json`` and ``error_images.json``."""
    names, confusion = evaluation["class_names"], evaluation["confusion"]
    classes = class_rows(names, confusion)
    return render_template(
        "evaluation_report.html", evaluation=evaluation, tiles=_tiles(evaluation),
        classes=classes, num_shown=MAX_CLASSES, pairs=confused_pairs(names, confusion),
        matrix=confusion_matrix(names, confusion) if len(names) <= MAX_CLASSES else None,
        slices=[row for row in evaluation["slices"] if row["by"] != "class"],
        errors=[error | images for error, images in zip(evaluation["errors"], error_images, strict=True)],
    )


def class_rows(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """Return label, num_images, num_predicted, recall and its interval, low to high, of each class with images.

    The class with the lowest recall is first.
    """
    rows = []
    for position, (name, counts) in enumerate(zip(names, confusion, strict=True)):
        if num_images := sum(counts):
            num_predicted = sum(row[position] for row in confusion)
            low, high = wilson_interval(counts[position], num_images)
            rows.append({"label": name, "num_images": num_images, "num_predicted": num_predicted,
                         "recall": counts[position] / num_images, "low": low, "high": high})
    return sorted(rows, key=lambda row: row["recall"])


def confused_pairs(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> list[tuple[str, str, int]]:
    """Return the most frequent confusions: label, predicted class, number of images."""
    pairs = [
        (names[label], names[predicted], count)
        for label, counts in enumerate(confusion)
        for predicted, count in enumerate(counts)
        if count and label != predicted
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:MAX_PAIRS]


def confusion_matrix(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """Return a row for each label with cells of num_images, shade (from 0 to ``NUM_SHADES``) and is_correct."""
    return [{"label": names[label], "cells": _matrix_cells(label, row)} for label, row in enumerate(confusion)]


def _matrix_cells(label: int, counts: Sequence[int]) -> list[dict[str, Any]]:
    total = max(1, sum(counts))
    return [
        {"num_images": count, "shade": -(-count * NUM_SHADES // total), "is_correct": label == predicted}
        for predicted, count in enumerate(counts)
    ]


def _tiles(evaluation: Mapping[str, Any]) -> list[tuple[str, str]]:
    num_images = evaluation["num_images"]
    low, high = evaluation["interval"]
    metric = METRICS[evaluation["metric"]]
    bounds = evaluation["val_metric_low"], evaluation["val_metric_high"]
    tiles = [] if metric.is_accuracy else [
        (metric.noun, f"{evaluation['val_metric']:.4f}"), ("95% interval", "{:.3f} to {:.3f}".format(*bounds)),
    ]
    tiles += [
        ("accuracy", f"{evaluation['accuracy']:.4f}"), ("95% interval", f"{low:.3f} to {high:.3f}"),
        ("images", str(num_images)), ("errors", str(num_images - evaluation["num_correct"])),
        ("calibration error", f"{evaluation['calibration_error']:.3f}"),
        ("temperature", f"{evaluation['temperature']:.3f}"),
        ("prediction time per image", f"{evaluation['latency_ms']:.1f} ms"),
        ("model size", f"{evaluation['model_mb']:.1f} MB"),
    ]
    if "reload_difference" in evaluation:
        tiles.append(("difference after reloading", f"{evaluation['reload_difference']:.2g}"))
    return tiles
