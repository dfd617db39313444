"""Pages and reports of 200 classes with long names in several scripts, with HTML characters and slashes."""

import re

import numpy as np
import pandas as pd
import pytest
from html_page import Page

from carclf.dashboard.charts import render_svg
from carclf.dashboard.run_charts import MAX_BARS, recalls
from carclf.dashboard.run_facts import ClassRecall
from carclf.formatting import MAX_CLASS_NAME, shorten
from carclf.reports.dataset_report import DatasetFindings, write_dataset_report
from carclf.reports.evaluation_report import MAX_PAIRS, class_rows, render_evaluation
from carclf.reports.render import MAX_CLASSES, format_class

NAMES = [f"<b>Автомобиль/кузов & 車 \"{number}\" {'sehr langer Name ' * 4}№{number}" for number in range(200)]


def confusion(num_classes: int) -> list[list[int]]:
    """Return confusions in which a class is the worse, the larger its number."""
    matrix = np.diag(np.full(num_classes, 20)) + np.eye(num_classes, k=-1, dtype=int)
    matrix[:, 0] += np.arange(num_classes) // 10
    return matrix.tolist()


def evaluation(num_classes: int) -> dict:
    matrix = confusion(num_classes)
    num_images = int(np.sum(matrix))
    errors = [{"id": "1", "path": "1.jpg", "label": NAMES[1], "predicted": NAMES[0], "probability": 0.9}]
    return {
        "class_names": NAMES[:num_classes], "confusion": matrix, "num_images": num_images, "accuracy": 0.8,
        "interval": (0.7, 0.9), "num_correct": num_images - 5, "calibration_error": 0.1, "temperature": 1.0,
        "uncalibrated_calibration_error": 0.2, "latency_ms": 1.0, "model_mb": 1.0, "reliability": [], "slices": [],
        "unknown_classes": NAMES[:50], "errors": errors, "metric": "log_loss", "val_metric": 0.5,
        "val_metric_low": 0.4, "val_metric_high": 0.6,
    }


def test_the_report_of_an_evaluation_shows_the_worst_classes_and_pairs() -> None:
    page = render_evaluation(evaluation(200), [{"image": "", "overlay": ""}])
    assert "<b>" not in page and 'class="matrix' not in page
    shown, folded = page.partition("<details>")[::2]
    assert shown.count("<tr><td><bdi") == MAX_CLASSES and folded.partition("</details>")[0].count("<tr><td>") == 170
    assert str(format_class(NAMES[-1])) in shown and page.count(" → ") >= MAX_PAIRS
    assert len(page) < 300_000
    visible = re.sub(r'title="[^"]*"', "", page)
    longest = max(re.findall(r"<bdi>([^<]*)</bdi>", visible), key=len)
    assert len(longest.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")) < 2 * MAX_CLASS_NAME


@pytest.mark.parametrize(("num_classes", "has_matrix"), [(MAX_CLASSES, True), (MAX_CLASSES + 1, False)])
def test_a_matrix_is_shown_for_few_classes_only(num_classes: int, has_matrix: bool) -> None:
    page = render_evaluation(evaluation(num_classes), [{"image": "", "overlay": ""}])
    assert ('<table class="matrix long">' in page) == has_matrix and "<b>" not in page


def test_the_chart_of_the_recalls_draws_the_weakest_classes(tmp_path) -> None:
    chart = recalls([ClassRecall.model_validate(row) for row in class_rows(NAMES, confusion(200))])
    assert chart.values[0]["label"] == chart.rows[0][0] and len(chart.values) == MAX_BARS
    assert len({value["label"] for value in chart.values}) == MAX_BARS and len(chart.rows) == 200
    svg = render_svg(chart)
    assert "<b>" not in svg and "&lt;b&gt;" in svg and "…" in svg
    assert len(chart.summary) < 400


def test_the_report_of_a_dataset_lists_the_smallest_classes_first(tmp_path) -> None:
    labels = [name for number, name in enumerate(NAMES) for _ in range(number + 1)]
    paths = [f"{number}.jpg" for number in range(len(labels))]
    index = pd.DataFrame({
        "id": paths, "path": paths, "label": labels, "source": "train", "problem": "", "warning": "",
        "sha256": paths, "height": 0, "width": 0, "size_bytes": 1, "brightness": 0.5,
    })
    write_dataset_report(tmp_path / "report.html", index, tmp_path, DatasetFindings({"num_images": len(index)}))
    text = (tmp_path / "report.html").read_text()
    first = text.partition('id="classes"')[2].partition("<tbody>")[2].partition("</tbody>")[0]
    assert first.count("<tr>") == MAX_CLASSES and '<td class="number">1</td>' in first.partition("</tr>")[0]
    assert f"and {200 - MAX_CLASSES} larger classes" in text and "<b>" not in text and len(text) < 1_000_000
    assert len(Page(text).all("figure")) <= 40 * 8


@pytest.mark.parametrize("name", ["short", "a/b", '<script>"&', "x" * 61, "ж" * 100, "line\nbreak", "\u202eevil"])
def test_a_class_name_is_escaped_and_shortened(name: str) -> None:
    short = shorten(name)
    assert len(short) <= MAX_CLASS_NAME and short.isprintable()
    assert "<script" not in format_class(name) and ("title=" in format_class(name)) == (short != name)
    assert short[:5] == shorten(name, 1000)[:5] and short[-5:] == shorten(name, 1000)[-5:]
