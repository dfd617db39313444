"""The page of an evaluation: complete, bounded, safe to open, and made of the evaluation's files alone."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from carclf.evaluation.assessment import Predictions
from carclf.evaluation.evaluate import write_evaluation
from carclf.reports.evaluation_report import render_evaluation

EVIL = "<script>alert(1)</script>\"'&.png"


class Page(HTMLParser):
    """The tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def answers(folder: Path, *, num: int = 60, num_classes: int = 3, name: str = "0.png", wrong: float = 0.3) -> Predictions:
    random = np.random.default_rng(0)
    cv2.imwrite(str(folder / "0.png"), random.integers(0, 256, (60, 80, 3), np.uint8))
    if name != "0.png":
        (folder / "0.png").rename(folder / name)
    labels = np.arange(num) % num_classes
    predicted = np.where(random.random(num) < wrong, (labels + 1) % num_classes, labels)
    shares = np.full((num, num_classes), 0.3 / num_classes)
    shares[np.arange(num), predicted] += 0.7
    rows = pd.DataFrame({"id": name, "path": name, "label": labels, "width": 80, "height": 60,
                         "brightness": random.normal(size=num)})
    return Predictions(rows, list(range(num_classes)), shares)


def heat(paths: list[str], predicted: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(np.full((60, 80, 3), 100, np.uint8), np.eye(4, dtype=np.float32)) for _ in paths]


def written(folder: Path, given: Predictions, **extra: object) -> str:
    measures = {"latency_ms": 12.3, "model_mb": 45.6, "reload_difference": 1e-7}
    write_evaluation(folder, given, folder, measures=measures, **extra)
    return (folder / "report.html").read_text(encoding="utf-8")


def test_names_stay_text(tmp_path: Path) -> None:
    name = EVIL.replace("/", "_")
    page = Page(written(tmp_path, answers(tmp_path, name=name), explain=heat))
    assert {tag for tag, _ in page.tags} & {"script", "b", "i", "link", "iframe"} == set()
    assert name in page.text
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on") or key == "style"]
    assert {image["alt"] for image in page.all("img")} >= {name}


def test_the_page_allows_nothing_but_its_own_style_and_pictures(tmp_path: Path) -> None:
    text = written(tmp_path, answers(tmp_path), explain=heat)
    policy = next(tag["content"] for tag in Page(text).all("meta") if tag.get("http-equiv"))
    style = re.search("<style>(.*?)</style>", text, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; "
                      "form-action 'none'")
    assert "http:" not in text and "https:" not in text


def test_the_page_is_made_again_from_the_evaluations_files(tmp_path: Path) -> None:
    text = written(tmp_path, answers(tmp_path), explain=heat)
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert render_evaluation(found, json.loads((tmp_path / "error_images.json").read_text())) == text


def test_every_part_is_there_in_words_and_numbers(tmp_path: Path) -> None:
    page = Page(written(tmp_path, answers(tmp_path), explain=heat))
    found = json.loads((tmp_path / "evaluation.json").read_text())
    text = " ".join(page.text.split())
    for wanted in (f"{found['accuracy']:.4f}", "{:.3f}–{:.3f}".format(*found["interval"]), "12.3 ms", "45.6 MB",
                   "1e-07", f"{found['recall'][1]:.3f}", "Most frequent",
                   f"At temperature {found['temperature']:.3f}", "brightness", "megapixels"):
        assert wanted in text
    figure = next(tag["aria-label"] for tag in page.all("svg") if tag.get("role") == "img")
    assert figure.count("images;") == len(found["reliability"]) == len(page.all("circle"))
    assert len(page.all("img")) == 2 * len(found["errors"]) and "what spoke for" in page.all("img")[1]["alt"]


@pytest.mark.parametrize(("wrong", "word"), [(0.0, "None: every answer is right."), (1.0, "→")])
def test_a_model_that_is_always_right_or_always_wrong_has_a_page(tmp_path: Path, wrong: float, word: str) -> None:
    given = answers(tmp_path, num=3, wrong=wrong)
    plain = Predictions(given.rows[["id", "path", "label"]], given.class_names, given.probabilities)
    metrics = write_evaluation(tmp_path, plain, tmp_path, measures={"latency_ms": 1.0, "model_mb": 1.0})
    text = (tmp_path / "report.html").read_text()
    assert word in text and "once reloaded" not in text and "neither size nor brightness" in text
    assert metrics["val_accuracy"] == 1 - wrong and "reload_difference" not in metrics


def test_the_page_does_not_grow_with_the_images_and_classes(tmp_path: Path) -> None:
    text = written(tmp_path, answers(tmp_path, num=20_000, num_classes=300), explain=heat)
    assert len(text) < 1e6 and "and 100 more" in text and "matrix" not in {tag.get("class") for tag in
                                                                           Page(text).all("table")}
