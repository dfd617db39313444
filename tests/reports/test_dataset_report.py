import html
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from html_page import Page

from carclf.reports.dataset_report import DatasetFindings, write_dataset_report

EVIL = "<script>alert(1)</script>\"'&.jpg"
REPORT = {"num_train": 5, "note": "<b>bold</b>", "problems": []}
DRIFT = {"summary": "Compared with <i>a</i>.", "measures": [
    {"name": "brightness", "value": 0.5, "warn_above": 0.1, "stop_above": 0.3, "verdict": "stop", "note": "<u>up</u>"},
]}


def build_index(folder: Path, num: int, *, num_classes: int = 2) -> pd.DataFrame:
    """Return an index whose rows all have the path of the same image."""
    random = np.random.default_rng(0)
    cv2.imwrite(str(folder / "0.jpg"), random.integers(0, 256, (60, 80, 3), np.uint8))
    return pd.DataFrame({
        "id": [f"{n}.jpg" for n in range(num)], "path": "0.jpg",
        "label": [str(n % (num_classes + 1) - 1) if n % (num_classes + 1) else "" for n in range(num)],
        "width": 80, "height": 60, "source": ["test" if n % (num_classes + 1) == 0 else "train" for n in range(num)],
        "sha256": [f"{n:05}" for n in range(num)], "problem": "", "warning": "",
        "brightness": random.normal(size=num), "contrast": 1.0, "sharpness": 1.0,
        "pixels_sha256": [f"{n:05}" for n in range(num)], "cluster": np.arange(num),
    })


def write_page(folder: Path, index: pd.DataFrame, report: dict[str, Any] = REPORT, **findings: Any) -> Page:
    write_dataset_report(folder / "report.html", index, folder, DatasetFindings(report, **findings))
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def suspect(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"path": ["0.jpg"], "subset": ["val"], "label": ["0"], "suggested_label": ["1"],
                         "label_quality": [0.0123]} | {name: [value] for name, value in columns.items()})


def test_names_and_messages_from_the_data_are_escaped(tmp_path: Path) -> None:
    name = EVIL.replace("/", "_")
    index = build_index(tmp_path, 6).assign(path=name, id=name, problem=["", EVIL, "", "", EVIL, ""],
                                            warning=["", "", EVIL, "", "", EVIL], cluster=[0, 1, 2, 3, 4, 2])
    (tmp_path / "0.jpg").rename(tmp_path / name)
    page = write_page(tmp_path, index, suspects=suspect(path=name, suggested_label=EVIL), drift=DRIFT)
    page.assert_inert()
    assert html.escape(name, quote=False) in page.html.replace("&#34;", '"').replace("&#39;", "'")
    images = page.all("img")
    assert images
    assert all(image["alt"].startswith(name) for image in images)
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in images)


def test_the_dataset_report_is_self_contained(tmp_path: Path) -> None:
    write_page(tmp_path, build_index(tmp_path, 6)).assert_self_contained()


def test_the_report_shows_each_finding_with_its_images(tmp_path: Path) -> None:
    index = build_index(tmp_path, 30)
    index.loc[3, "problem"], index.loc[4, "problem"] = "not an image", "the file is empty"  # 3 is a test image
    index.loc[[6, 9], "warning"] = ["blurred: 3.1", "blurred: 4.5"]
    index.loc[[10, 11], "cluster"] = 10  # classes 0 and 1
    index.loc[[12, 13, 16], "cluster"] = 12  # a test image, and two of class 0
    index.loc[4, "path"] = "gone.jpg"
    page = write_page(tmp_path, index, suspects=suspect(), drift=DRIFT)
    assert "the file is empty (1)" in page.section("problems")
    assert "no preview" in page.section("problems")
    assert "not an image (1)" in page.section("unreadable")
    assert "not an image" not in page.section("problems")
    assert "blurred: … (2)" in page.section("warnings")
    assert "blurred: 4.5" in page.section("warnings")
    assert "3 near-duplicates in train and test" in page.section("duplicates")
    assert "1. val: 0 → 1 · 0.012" in page.section("suspects")
    assert "Compared with" in page.section("drift")
    assert "brightness" in page.section("drift")
    contradictions = page.section("contradictions")
    for text in ("class 0", "class 1", "2 near-duplicates"):
        assert text in contradictions


def test_an_image_that_could_not_be_decoded_is_not_decoded_again(tmp_path: Path) -> None:
    """It could crash this process."""
    index = build_index(tmp_path, 6)
    index.loc[1, "path"], index.loc[1, "height"], index.loc[1, "problem"] = "1.jpg", 0, "the decoder crashes"
    (tmp_path / "1.jpg").write_bytes((tmp_path / "0.jpg").read_bytes())
    assert "no preview" in write_page(tmp_path, index).section("problems")


def test_dataset_wide_findings_and_applied_fixes_are_listed(tmp_path: Path) -> None:
    reported = [{"kind": "class_imbalance", "severity": "warning", "path": "", "message": "class 3 is <b>rare</b>"},
                {"kind": "blurred", "severity": "warning", "path": "0.jpg", "message": "sharpness 1"}]
    report = {"findings": {"counts": {"blurred": 1, "class_imbalance": 1}, "reported": reported},
              "label_fixes": [{"path": "train/1/<b>.jpg", "action": "relabel", "old_label": "1", "new_label": "2"},
                              {"path": "train/1/c.jpg", "action": "drop", "old_label": "1", "new_label": None}]}
    page = write_page(tmp_path, build_index(tmp_path, 6), report)
    assert "class 3 is <b>rare</b>" in page.section("findings")
    assert "sharpness 1" not in page.text
    assert "train/1/<b>.jpg: class 1 → 2" in page.section("fixes")
    assert "train/1/c.jpg: class 1, removed" in page.section("fixes")


def test_sections_without_findings_are_empty(tmp_path: Path) -> None:
    page = write_page(tmp_path, build_index(tmp_path, 6))
    for name in ("contradictions", "problems", "unreadable", "warnings", "duplicates"):
        assert "None." in page.section(name)
    assert "Drift" not in page.text
    assert "Suspected" not in page.text


def test_the_report_does_not_require_image_statistics(tmp_path: Path) -> None:
    index = build_index(tmp_path, 9)[["id", "path", "label", "source", "width", "height", "sha256", "problem"]]
    assert "Class 1" in write_page(tmp_path, index).text


def test_the_dataset_report_has_a_bounded_size(tmp_path: Path) -> None:
    index = build_index(tmp_path, 30_000, num_classes=300)
    index = index.assign(cluster=np.arange(30_000) // 3, warning=[f"odd {chr(97 + n % 26)}" for n in range(30_000)])
    index.loc[::10, "problem"] = "x" * 5000
    suspects = index.head(5000).assign(suggested_label="1", label_quality=0.1, subset="train")
    page = write_page(tmp_path, index, suspects=suspects, drift=DRIFT)
    assert (tmp_path / "report.html").stat().st_size < 10e6
    assert "and 260 more groups" in page.text
