"""Render the report of a dataset."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from carclf.metrics import METRICS
from carclf.natural_order import sort_naturally
from carclf.reports import galleries
from carclf.reports.histograms import histograms
from carclf.reports.render import MAX_CLASSES, MAX_ROWS, render_template, write_page
from carclf.reports.thumbnails import Thumbnails


@dataclass(frozen=True)
class DatasetFindings:
    """The content of ``report.json`` and, after an audit, the suspects of ``suspects.parquet`` and ``drift.json``."""

    report: dict[str, Any]
    suspects: pd.DataFrame | None = None
    drift: dict[str, Any] | None = None


def write_dataset_report(path: Path, index: pd.DataFrame, images: Path, findings: DatasetFindings) -> None:
    """Write the report of a dataset as an HTML file. The paths in the index are relative to ``images``."""
    # An image without a height could not be decoded in another process; trying again could crash this one.
    thumbnails = Thumbnails(images, index.loc[index["height"] == 0, "path"])
    contradictions, duplicates = galleries.duplicate_galleries(index, thumbnails)
    classes = _class_rows(index)
    report, suspects = findings.report, findings.suspects
    is_test = index["source"] == "test"
    page = render_template(
        "dataset_report.html",
        metrics=[(name, _format_metric(name, value)) for name, value in report.items()
                 if isinstance(value, int | float | str)],
        classes=classes, num_shown=MAX_CLASSES, histograms=histograms(index), max_rows=MAX_ROWS,
        findings=_dataset_wide_findings(index, report), fixes=report.get("label_fixes", []),
        detections=report.get("detections", []),
        drift=findings.drift, suspects=None if suspects is None else galleries.suspect_gallery(suspects, thumbnails),
        contradictions=contradictions, duplicates=duplicates,
        problems=galleries.galleries_by_message(index[~is_test], "problem", thumbnails),
        test_problems=galleries.galleries_by_message(index[is_test], "problem", thumbnails),
        warnings=galleries.galleries_by_message(index, "warning", thumbnails),
        samples=galleries.class_galleries(index, thumbnails),
    )
    write_page(path, page)


def _format_metric(name: str, value: float | str) -> float | str:
    return METRICS[str(value)].title if name == "metric" else value


def _class_rows(index: pd.DataFrame) -> list[dict[str, Any]]:
    """Return label, num_usable, num_unusable, num_warnings and fraction_of_largest, the smallest class first."""
    train = index[(index["label"] != "") & (index["source"] != "holdout")]
    is_usable = train["problem"] == ""
    has_warning = train["warning"] != "" if "warning" in train else False
    counts = train.assign(num_usable=is_usable, num_unusable=~is_usable, num_warnings=has_warning)
    table = counts.groupby("label")[["num_usable", "num_unusable", "num_warnings"]].sum().astype(int)
    table = table.loc[sort_naturally(table.index)].reset_index()
    table["fraction_of_largest"] = table["num_usable"] / max(1, table["num_usable"].max())
    table = table.sort_values("num_usable", kind="stable")
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _dataset_wide_findings(index: pd.DataFrame, report: dict[str, Any]) -> list[str]:
    """Return the warnings and errors that are not about a single image."""
    images = set(index["path"])
    return [
        f"{finding['path']}: {finding['message']}" if finding["path"] else finding["message"]
        for finding in report.get("findings", {}).get("reported", [])
        if finding["severity"] != "info" and finding["path"] not in images
    ]
