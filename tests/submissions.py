"""Submissions to the demo server without a store, and the test set that they are checked against."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from carclf.dataset.detection.result import SampleSubmission, SubmissionFormat
from carclf.services.kaggle.client import KaggleClient, SubmissionState
from carclf.services.kaggle.submitting import Attempt, SubmissionFile, submit_once


def layout_json(ids: Sequence[str], class_names: Sequence[str]) -> bytes:
    """Return the ``layout.json`` of a competition with these test images, which wants the name of the class."""
    form = SubmissionFormat("sample-submission.csv", "Id", ("Category",), "label", {name: name for name in class_names})
    return json.dumps(asdict(SampleSubmission(tuple(ids), form))).encode()


class MemoryClaim:
    """A claim that one process keeps."""

    def __init__(self, attempt: Attempt | None = None) -> None:
        self.attempt = attempt

    def read(self) -> Attempt | None:
        return self.attempt

    def replace(self, attempt: Attempt | None) -> bool:
        self.attempt = attempt
        return True


def submit_file(
    kaggle: KaggleClient, path: Path, fingerprint: str, claim: MemoryClaim | None = None, max_per_day: int = 0
) -> SubmissionState:
    file = SubmissionFile(path, fingerprint, f"carclf {fingerprint}")
    return submit_once(kaggle, file, claim or MemoryClaim(), max_per_day)
