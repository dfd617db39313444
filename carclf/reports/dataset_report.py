"""The report of a dataset: one HTML file that holds its pictures and needs no script and no network."""

from pathlib import Path
from typing import Any

import pandas as pd

from carclf.reports import galleries
from carclf.reports.histograms import histograms
from carclf.reports.render import MAX_ROWS, render_template, write_page
from carclf.reports.thumbnails import Thumbnails


def write_dataset_report(
    path: Path, index: pd.DataFrame, report: dict[str, Any], folder: Path, *,
    suspects: pd.DataFrame | None = None, drift: dict[str, Any] | None = None,
) -> None:
    """Write the page of an index and its ``report.json``; pictures are read from ``folder``.

    ``suspects`` (path, label, suggested, score) are ranked; ``drift`` has a ``summary`` and rows of ``measures``.
    """
    show = Thumbnails(folder)
    contradictions, duplicates = galleries.duplicate_galleries(index, show)
    page = render_template(
        "data_report.html",
        metrics=[(name, value) for name, value in report.items() if isinstance(value, int | float | str)],
        classes=_class_rows(index).head(MAX_ROWS).to_dict("records"), num_classes=len(_class_rows(index)),
        histograms=histograms(index), samples=galleries.class_galleries(index, show),
        problems=galleries.galleries_by_message(index, "problem", show), warnings=galleries.galleries_by_message(index, "warning", show),
        contradictions=contradictions, duplicates=duplicates, drift=drift,
        findings=_other_findings(index, report), fixes=report.get("label_fixes", []), max_rows=MAX_ROWS,
        suspects=None if suspects is None else galleries.suspect_gallery(suspects, show),
    )
    write_page(path, page)


def _class_rows(index: pd.DataFrame) -> pd.DataFrame:
    """Of each class: label, usable pictures as a number and as a share of the largest class's, unusable, warned."""
    train = index[index["label"] >= 0]
    warned = train["warning"] != "" if "warning" in train else False
    counted = train.assign(num=train["problem"] == "", num_unusable=train["problem"] != "", num_warnings=warned)
    table = counted.groupby("label")[["num", "num_unusable", "num_warnings"]].sum().astype(int).reset_index()
    return table.assign(share=table["num"] / max(1, table["num"].max()))


def _other_findings(index: pd.DataFrame, report: dict[str, Any]) -> list[str]:
    """The texts of what validation found that is no picture's own: of classes, tables and the whole."""
    listed = [finding for finding in report.get("findings", {}).get("reported", []) if finding["severity"] != "info"]
    pictures = set(index["path"])
    return [f"{finding['path']}: {finding['message']}" if finding["path"] else finding["message"]
            for finding in listed if finding["path"] not in pictures]
