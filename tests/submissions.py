"""Submissions to the demo server without a store."""

from pathlib import Path

from carclf.services.kaggle.client import KaggleClient, SubmissionState
from carclf.services.kaggle.submitting import Attempt, SubmissionFile, submit_once


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
    kaggle: KaggleClient, path: Path, fingerprint: str, claim: MemoryClaim | None = None
) -> SubmissionState:
    file = SubmissionFile(path, fingerprint, f"carclf {fingerprint}")
    return submit_once(kaggle, file, claim or MemoryClaim())
