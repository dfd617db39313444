"""The page of an evaluation, made of its files alone: ``evaluation.json`` and ``error_images.json``."""

from typing import Any

from carclf.reports.render import MAX_ROWS, render_template
from carclf.stats import wilson_interval

MAX_CONFUSION_CLASSES = 40  # classes of a confusion matrix that can still be read
MAX_PAIRS = 20
NUM_SHADES = 9


def render_evaluation(found: dict[str, Any], pictures: list[dict[str, str]]) -> str:
    """The page of what ``evaluation.json`` holds, and the pictures of its errors in their order."""
    names, confusion = found["class_names"], found["confusion"]
    classes = class_rows(names, confusion)
    return render_template(
        "evaluation_report.html", found=found, tiles=_tiles(found), classes=classes[:MAX_ROWS],
        num_classes=len(classes), pairs=confused_pairs(names, confusion),
        matrix=confusion_matrix(names, confusion) if len(names) <= MAX_CONFUSION_CLASSES else None,
        parts=[part for part in found["slices"] if part["by"] != "class"],
        errors=[error | picture for error, picture in zip(found["errors"], pictures, strict=True)],
    )


def _tiles(found: dict[str, Any]) -> list[tuple[str, str]]:
    low, high = found["interval"]
    tiles = [
        ("accuracy", f"{found['accuracy']:.4f}"), ("95% interval", f"{low:.3f}–{high:.3f}"),
        ("images", str(found["num_images"])), ("errors", str(found["num_images"] - found["num_correct"])),
        ("calibration error", f"{found['calibration_error']:.3f}"), ("temperature", f"{found['temperature']:.3f}"),
    ]
    units = {"latency_ms": ("time an image", "{:.1f} ms"), "model_mb": ("model", "{:.1f} MB"),
             "reload_difference": ("difference once reloaded", "{:.2g}")}
    return tiles + [(title, form.format(found[name])) for name, (title, form) in units.items() if name in found]


def class_rows(names: list[int], confusion: list[list[int]]) -> list[dict[str, Any]]:
    """Each class with images, the lowest recall first: label, num, right, recall, its interval, named (as it)."""
    rows = []
    for position, name in enumerate(names):
        num, right = sum(confusion[position]), confusion[position][position]
        if num:
            low, high = wilson_interval(right, num)
            rows.append({"label": name, "num": num, "recall": right / num, "low": low, "high": high,
                         "named": sum(row[position] for row in confusion)})
    return sorted(rows, key=lambda row: row["recall"])


def confused_pairs(names: list[int], confusion: list[list[int]]) -> list[tuple[int, int, int]]:
    """The most frequent confusions: label, predicted, number of images."""
    pairs = [(names[label], names[predicted], num) for label, row in enumerate(confusion)
             for predicted, num in enumerate(row) if num and label != predicted]
    return sorted(pairs, key=lambda pair: -pair[2])[:MAX_PAIRS]


def confusion_matrix(names: list[int], confusion: list[list[int]]) -> list[dict[str, Any]]:
    """A row for each label: its cells with number, share of the row as one of NUM_SHADES, and whether it is right."""
    rows = []
    for label, counts in enumerate(confusion):
        total = max(1, sum(counts))
        cells = [{"num": num, "shade": -(-num * NUM_SHADES // total), "right": label == predicted}
                 for predicted, num in enumerate(counts)]
        rows.append({"label": names[label], "cells": cells})
    return rows
