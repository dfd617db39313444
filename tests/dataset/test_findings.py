"""Findings: limits of messages, report and log."""

import logging

import pytest

from carclf.dataset.checks import raise_on_errors
from carclf.dataset.findings import (
    MAX_LOGGED,
    MAX_RAISED,
    MAX_REPORTED,
    Finding,
    Findings,
    describe_missing_images,
)
from carclf.errors import DataError


def test_ten_thousand_errors_give_one_short_message() -> None:
    findings = Findings(Finding("too_few_images", str(number), f"Class {number} is small.") for number in range(10_000))
    findings.add([Finding("empty_class", "7", "Class 7 is empty.")])
    messages = [f"Class {number} is small." for number in range(MAX_RAISED)]
    assert findings.errors[:MAX_RAISED] == messages
    assert str(10_000 - MAX_RAISED) in findings.errors[MAX_RAISED]
    assert findings.errors[MAX_RAISED + 1 :] == ["Class 7 is empty."]
    with pytest.raises(DataError) as error:
        raise_on_errors(findings)
    assert str(error.value) == " ".join(findings.errors)


def test_the_report_has_all_counts_and_the_first_findings_of_each_kind() -> None:
    findings = Findings(Finding("dark", f"{number}.jpg", "dark") for number in range(10_000))
    findings.add([Finding("exif_orientation", "a.jpg", "rotated")])
    report = findings.to_dict()
    assert report["counts"] == {"dark": 10_000, "exif_orientation": 1}
    assert len(report["reported"]) == MAX_REPORTED + 1
    assert report["reported"][-1] == {
        "kind": "exif_orientation", "severity": "info", "path": "a.jpg", "message": "rotated"}
    assert (findings.count("warning"), findings.count("info"), findings.count("error")) == (10_000, 1, 0)


def test_the_warnings_of_an_image_are_joined() -> None:
    findings = Findings([Finding("dark", "a.jpg", "Dark."), Finding("blurred", "a.jpg", "Blurred."),
                         Finding("non_rgb_mode", "a.jpg", "Gray.")])
    assert findings.warnings == {"a.jpg": "Dark.; Blurred."}


def test_a_file_name_cannot_forge_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "carclf")
    name = "train/0/a.jpg\n12:00 promote: promoted\x1b[2J\r\udcff"
    findings = Findings(Finding("truncated", name, "is truncated") for _ in range(MAX_LOGGED + 2))
    findings.log()
    line = r"validate: truncated path=train/0/a.jpg\n12:00 promote: promoted\x1b[2J\r\udcff is truncated"
    total = f"validate: truncated total={MAX_LOGGED + 2} logged={MAX_LOGGED}"
    assert caplog.messages == [line] * MAX_LOGGED + [total]


def test_ids_without_an_image_are_counted_and_listed() -> None:
    assert describe_missing_images(["b"], 12) == "1 of 12 ids has no image: b."
    assert describe_missing_images(["10", "9"], 12, "sample.csv") == "2 of 12 ids in sample.csv have no image: 9, 10."
    assert describe_missing_images(["a"], 1) == "1 of 1 id has no image: a."
    assert describe_missing_images([str(n) for n in range(30)], 99).endswith(": " + ", ".join(map(str, range(20)))
                                                                             + " and 10 more.")
