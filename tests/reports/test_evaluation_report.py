import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from html_page import Page

from carclf.evaluation.assessment import Predictions
from carclf.evaluation.evaluate import write_evaluation
from carclf.reports.evaluation_report import render_evaluation

EVIL = "<script>alert(1)</script>\"'&.png"
MEASUREMENTS = {"latency_ms": 12.3, "model_mb": 45.6}


def build_predictions(
    folder: Path, *, num: int = 60, num_classes: int = 3, name: str = "0.png", error_rate: float = 0.3
) -> Predictions:
    random = np.random.default_rng(0)
    cv2.imwrite(str(folder / "0.png"), random.integers(0, 256, (60, 80, 3), np.uint8))
    (folder / "0.png").rename(folder / name)
    labels = np.arange(num) % num_classes
    predicted = np.where(random.random(num) < error_rate, (labels + 1) % num_classes, labels)
    probabilities = np.full((num, num_classes), 0.3 / num_classes)
    probabilities[np.arange(num), predicted] += 0.7
    rows = pd.DataFrame({"id": name, "path": name, "label": labels.astype(str), "width": 80, "height": 60,
                         "brightness": random.normal(size=num)})
    return Predictions(rows, [str(number) for number in range(num_classes)], probabilities)


def explain(paths: list[str], predicted: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(np.full((60, 80, 3), 100, np.uint8), np.eye(4, dtype=np.float32)) for _ in paths]


def write_page(folder: Path, predictions: Predictions, **options: Any) -> Page:
    measurements = MEASUREMENTS | {"reload_difference": 1e-7}
    write_evaluation(folder, predictions, folder, measurements=measurements, **options)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def read_evaluation(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation.json").read_text())


def test_file_names_are_escaped(tmp_path: Path) -> None:
    name = EVIL.replace("/", "_")
    page = write_page(tmp_path, build_predictions(tmp_path, name=name), explain=explain)
    page.assert_inert()
    assert name in page.text
    assert name in {image["alt"] for image in page.all("img")}


def test_the_evaluation_report_is_self_contained(tmp_path: Path) -> None:
    write_page(tmp_path, build_predictions(tmp_path), explain=explain).assert_self_contained()


def test_the_report_can_be_rendered_from_the_evaluations_files(tmp_path: Path) -> None:
    page = write_page(tmp_path, build_predictions(tmp_path), explain=explain)
    images = json.loads((tmp_path / "error_images.json").read_text())
    assert render_evaluation(read_evaluation(tmp_path), images) == page.html


def test_the_report_shows_all_metrics_and_errors(tmp_path: Path) -> None:
    page = write_page(tmp_path, build_predictions(tmp_path), explain=explain)
    evaluation = read_evaluation(tmp_path)
    text = " ".join(page.text.split())
    low, high = evaluation["interval"]
    for expected in (f"{evaluation['accuracy']:.4f}", f"{low:.3f} to {high:.3f}", "12.3 ms", "45.6 MB", "1e-07",
                     f"{evaluation['recall'][1]:.3f}", f"{evaluation['temperature']:.3f}", "brightness", "megapixels"):
        assert expected in text
    assert "→" in page.section("confusion")
    plot = next(tag["aria-label"] for tag in page.all("svg") if tag.get("role") == "img")
    assert plot.count("images;") == len(evaluation["reliability"]) == len(page.all("circle"))
    images = page.all("img")
    assert len(images) == 2 * len(evaluation["errors"])
    assert "heatmap" in images[1]["alt"]


@pytest.mark.parametrize(("error_rate", "text"), [(0.0, "every prediction is correct"), (1.0, "→")])
def test_a_model_without_errors_or_without_correct_predictions_has_a_report(
    tmp_path: Path, error_rate: float, text: str
) -> None:
    complete = build_predictions(tmp_path, num=3, error_rate=error_rate)
    predictions = Predictions(complete.rows[["id", "path", "label"]], complete.class_names, complete.probabilities)
    metrics = write_evaluation(tmp_path, predictions, tmp_path, measurements=dict(MEASUREMENTS))
    page = Page((tmp_path / "report.html").read_text())
    assert text in page.section("errors")
    assert "None" in page.section("slices")
    assert "reloading" not in page.text
    assert metrics["val_accuracy"] == 1 - error_rate
    assert "reload_difference" not in metrics


def test_the_evaluation_report_has_a_bounded_size(tmp_path: Path) -> None:
    page = write_page(tmp_path, build_predictions(tmp_path, num=6_000, num_classes=300), explain=explain)
    assert len(page.html) < 1e6
    assert "and 270 more classes" in page.text
    assert "matrix" not in {table.get("class") for table in page.all("table")}
