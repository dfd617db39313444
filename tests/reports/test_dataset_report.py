"""The dataset's report: one file, safe to open, bounded, and complete."""

import base64
import hashlib
import html
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from carclf.reports.dataset_report import write_dataset_report

EVIL = "<script>alert(1)</script>\"'&.jpg"
FIGURES = {"num_train": 5, "note": "<b>bold</b>", "problems": []}
DRIFT = {"summary": "Compared with <i>a</i>.", "measures": [
    {"name": "brightness", "value": 0.5, "warn": 0.1, "stop": 0.3, "verdict": "stop", "note": "<u>up</u>"}]}


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

    def images(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]


def dataset(folder: Path, num: int, *, num_classes: int = 2) -> pd.DataFrame:
    """An index of links to one real picture."""
    random = np.random.default_rng(0)
    cv2.imwrite(str(folder / "0.jpg"), random.integers(0, 256, (60, 80, 3), np.uint8))
    return pd.DataFrame({
        "id": [f"{n}.jpg" for n in range(num)], "path": "0.jpg", "label": np.arange(num) % (num_classes + 1) - 1,
        "width": 80, "height": 60, "sha256": [f"{n:05}" for n in range(num)], "problem": "", "warning": "",
        "brightness": random.normal(size=num), "contrast": 1.0, "sharpness": 1.0,
        "pixels_sha256": [f"{n:05}" for n in range(num)], "cluster": np.arange(num),
    })


def page_of(tmp_path: Path, index: pd.DataFrame, **extra: object) -> str:
    write_dataset_report(tmp_path / "report.html", index, FIGURES, tmp_path, **extra)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_names_and_texts_from_the_data_stay_text(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    name = EVIL.replace("/", "_")
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((50, 50, 3), np.uint8))
    (tmp_path / "a.jpg").rename(tmp_path / name)
    index = dataset(tmp_path, 6).assign(path=name, id=name, problem=["", EVIL, "", "", EVIL, ""],
                                        warning=["", "", EVIL, "", "", EVIL], cluster=[0, 1, 2, 3, 4, 2])
    suspects = pd.DataFrame({"id": [name], "path": [name], "label": [0], "suggested_label": [EVIL], "label_quality": [0.1]})
    text = page_of(tmp_path, index, suspects=suspects, drift=DRIFT)
    page = Page(text)
    assert {tag for tag, _ in page.tags} & {"script", "b", "i", "u", "link", "iframe"} == set()
    assert html.escape(name, quote=False) in text.replace("&#34;", '"').replace("&#39;", "'")
    assert all(image["alt"].startswith(name) and image["src"].startswith("data:image/jpeg;base64,")
               for image in page.images()) and page.images()
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on") or key == "style"]


def test_the_page_allows_nothing_but_its_own_style_and_pictures(tmp_path: Path) -> None:
    text = page_of(tmp_path, dataset(tmp_path, 6))
    policy = next(attributes["content"] for tag, attributes in Page(text).tags
                  if attributes.get("http-equiv") == "Content-Security-Policy")
    style = re.search("<style>(.*?)</style>", text, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; "
                      "form-action 'none'")
    assert "http:" not in text and "https:" not in text


def test_every_finding_is_on_the_page_with_its_picture(tmp_path: Path) -> None:
    index = dataset(tmp_path, 30)
    index.loc[3, "problem"], index.loc[4, "problem"] = "the file is empty", "cannot be decoded"
    index.loc[[6, 9], "warning"] = ["blurred: 3.1", "blurred: 4.5"]
    index.loc[[10, 11], "cluster"] = 10  # classes 0 and 1
    index.loc[[12, 13, 16], "cluster"] = 12  # one of test, two of class 0
    index.loc[3, "path"] = "gone.jpg"
    suspects = pd.DataFrame({"id": ["7.jpg"], "path": ["0.jpg"], "label": [0], "suggested_label": [1], "label_quality": [0.0123]})
    text = Page(page_of(tmp_path, index, suspects=suspects, drift=DRIFT)).text
    for wanted in ("the file is empty (1)", "cannot be shown", "blurred: … (2)", "blurred: 4.5", "2 near-copies",
                   "3 near-copies in train and test", "1. 0 → 1 · 0.012", "Compared with", "brightness"):
        assert wanted in text
    contradictions = text.split("Contradictions")[-1].split("Problems")[0]
    assert "class 0" in contradictions and "class 1" in contradictions and "2 near-copies" in contradictions


def test_findings_about_no_picture_and_applied_fixes_are_listed(tmp_path: Path) -> None:
    listed = [{"kind": "class_imbalance", "severity": "warning", "path": "", "message": "class 3 is <b>rare</b>"},
              {"kind": "blurred", "severity": "warning", "path": "0.jpg", "message": "sharpness 1"}]
    report = {"findings": {"counts": {"blurred": 1, "class_imbalance": 1}, "reported": listed},
              "label_fixes": [{"path": "train/1/<b>.jpg", "action": "relabel", "old_label": 1, "new_label": 2},
                              {"path": "train/1/c.jpg", "action": "drop", "old_label": 1, "new_label": None}]}
    write_dataset_report(tmp_path / "report.html", dataset(tmp_path, 6), report, tmp_path)
    text = Page((tmp_path / "report.html").read_text()).text
    assert "class 3 is <b>rare</b>" in text and "sharpness 1" not in text
    assert "train/1/<b>.jpg: class 1 → 2" in text and "train/1/c.jpg: class 1, left out" in text


def test_without_findings_the_page_says_so(tmp_path: Path) -> None:
    text = Page(page_of(tmp_path, dataset(tmp_path, 6))).text
    assert text.count("None.") == 4 and "Drift" not in text and "Suspected" not in text


@pytest.mark.parametrize("columns", [["id", "path", "label", "width", "height", "sha256", "problem"]])
def test_an_index_of_the_first_columns_is_enough(tmp_path: Path, columns: list[str]) -> None:
    assert "Class 1" in Page(page_of(tmp_path, dataset(tmp_path, 9)[columns])).text


def test_the_page_does_not_grow_with_the_dataset(tmp_path: Path) -> None:
    index = dataset(tmp_path, 30_000, num_classes=300)
    index = index.assign(cluster=np.arange(30_000) // 3, warning=[f"odd {chr(97 + n % 26)}" for n in range(30_000)])
    index.loc[::10, "problem"] = "x" * 5000
    suspects = index.head(5000).assign(suggested=1, score=0.1)
    write_dataset_report(tmp_path / "report.html", index, FIGURES, tmp_path, suspects=suspects, drift=DRIFT)
    assert (tmp_path / "report.html").stat().st_size < 10e6
    assert "and 260 more groups" in (tmp_path / "report.html").read_text()
