"""What is said of findings, however many there are and whatever the files are called."""

import logging

import pandas as pd
import pytest

from carclf.config import Validation
from carclf.dataset.checks import find_problems, raise_on_errors
from carclf.dataset.findings import MAX_LOGGED, MAX_RAISED, MAX_REPORTED, Finding, Findings
from carclf.dataset.image_checks import CheckContext
from carclf.errors import DataError


def test_ten_thousand_errors_make_one_message_that_can_be_read() -> None:
    findings = Findings(Finding("too_few_images", str(number), f"Class {number} is small.") for number in range(10_000))
    findings.add([Finding("empty_class", "7", "Class 7 is empty.")])
    told = [f"Class {number} is small." for number in range(MAX_RAISED)]
    assert findings.errors == [*told, f"{10_000 - MAX_RAISED} more errors are of the last one's kind.", "Class 7 is empty."]
    assert len(findings.listed) == MAX_REPORTED + 1 and findings.count("error") == 10_001
    with pytest.raises(DataError) as error:
        raise_on_errors(findings)
    assert str(error.value) == " ".join(findings.errors)


def test_of_thousands_of_classes_a_message_names_the_first() -> None:
    labels = list(range(196)) + [1000 + number for number in range(3000)]
    index = pd.DataFrame({"label": labels, "source": ["train"] * 196 + ["extra"] * 3000, "problem": "", "problem_kind": "",
                          "path": [f"train/{label}/a.jpg" for label in labels], "cluster": labels, "warning": "",
                          "id": [f"{label}.jpg" for label in labels], "format": "JPEG RGB", "width": 64, "height": 48,
                          "brightness": 100.0, "contrast": 50.0, "sharpness": 0.5})
    table = pd.DataFrame({"Id": index["id"][:196], "Category": labels[:196]})
    sample = pd.DataFrame({"Id": [], "Category": []})
    with pytest.raises(DataError, match=r"its classes are 0, 1, 2, .*, 19 and 176 more\. Move") as error:
        raise_on_errors(find_problems(index, CheckContext(sample, table, Validation())))
    assert len(str(error.value)) < 10_000


def test_no_name_of_a_file_forges_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "carclf")
    name = "train/0/a.jpg\n12:00 promote: promoted\x1b[2J\r\udcff"
    findings = Findings(Finding("truncated", name, "is cut off") for _ in range(MAX_LOGGED + 2))
    findings.log()
    line = r"left out train/0/a.jpg\n12:00 promote: promoted\x1b[2J\r\udcff: is cut off"
    assert caplog.messages == [line] * MAX_LOGGED + [f"truncated: {MAX_LOGGED + 2} in all, {MAX_LOGGED} of them above"]
