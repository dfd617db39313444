"""Findings of validation: their kinds and severities, and counting, reporting, logging and raising them."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from carclf.formatting import format_count, format_list
from carclf.natural_order import sort_naturally
from carclf.progress import log

# An unusable image is ignored everywhere. Warnings and infos change nothing. Errors stop the run.
SEVERITY_BY_KIND: dict[str, str] = {
    "empty": "unusable", "truncated": "unusable", "undecodable": "unusable", "too_many_pixels": "unusable",
    "too_small": "unusable", "dropped": "unusable",
    "damaged": "warning", "extreme_aspect_ratio": "warning", "dark": "warning", "bright": "warning",
    "low_contrast": "warning", "blurred": "warning", "conflicting_labels": "warning",
    "not_in_sample": "warning", "label_mismatch": "warning", "class_imbalance": "warning",
    "unmatched_label_fix": "warning", "invalid_label_table": "warning", "unmatched_label_table": "warning",
    "similar_classes": "warning", "combined_classes": "warning", "guessed_encoding": "warning",
    "empty_class_folder": "warning", "empty_class_column": "warning", "placeholder_class": "warning",
    "subset_class": "warning", "garbled_class": "warning", "unnamed_classes": "warning",
    "unused_subsets": "warning", "common_prefixes": "warning",
    "ignored_data": "warning", "ignored_file": "info",
    "wrong_file_extension": "info", "non_rgb_mode": "info", "exif_orientation": "info",
    "unknown_class": "error", "ambiguous_class": "error", "empty_class": "error", "too_few_images": "error",
    "too_few_classes": "error", "too_many_unusable_images": "error", "too_many_unreadable_test_images": "error",
    "missing_test_image": "error", "duplicate_test_id": "error",
}
# Limits for each kind. The report counts all findings; all errors are raised in one message.
MAX_REPORTED = 200
MAX_LOGGED = 10
MAX_RAISED = 20
MAX_LABELS = 20  # in one message


@dataclass(frozen=True)
class Finding:
    """One problem: its kind, the path or id of the image ("" for the whole dataset), and a message for the user."""

    kind: str
    path: str
    message: str

    @property
    def severity(self) -> str:
        """``unusable``, ``warning``, ``info`` or ``error``."""
        return SEVERITY_BY_KIND[self.kind]


def format_labels(labels: Iterable[str]) -> str:
    """Return the sorted labels as text, shortened if there are many."""
    return format_list(sort_naturally(labels), MAX_LABELS)


def describe_missing_images(missing: Collection[str], num_ids: int, file: str = "") -> str:
    """Return a sentence about the ids that have no image, such as 3 of 12 ids have no image: a, b, c.

    ``file`` is the table with the ids, if the message does not name it otherwise.
    """
    ids = format_count(num_ids, "id") + (f" in {file}" if file else "")
    return (f"{format_count(len(missing), f'of {ids} has', f'of {ids} have')} no image: "
            f"{format_labels(image_id or repr('') for image_id in missing)}.")


class Findings:
    """The number of findings of each kind, and the first MAX_REPORTED findings of each kind."""

    def __init__(self, findings: Iterable[Finding] = ()) -> None:
        self.counts: Counter[str] = Counter()
        self.reported: list[Finding] = []
        self.warnings: dict[str, str] = {}  # messages by path, for the index's column ``warning``
        self.add(findings)

    def add(self, findings: Iterable[Finding]) -> None:
        """Count the findings and keep the first ones of each kind."""
        for finding in findings:
            self.counts[finding.kind] += 1
            if self.counts[finding.kind] <= MAX_REPORTED:
                self.reported.append(finding)
            if finding.severity == "warning":
                earlier = self.warnings.get(finding.path)
                self.warnings[finding.path] = f"{earlier}; {finding.message}" if earlier else finding.message

    @property
    def errors(self) -> list[str]:
        """The messages of the first MAX_RAISED errors of each kind, and the number of further errors."""
        return [message for kind in self.counts if SEVERITY_BY_KIND[kind] == "error"
                for message in self._error_messages(kind)]

    def _error_messages(self, kind: str) -> Iterator[str]:
        yield from [finding.message for finding in self.reported if finding.kind == kind][:MAX_RAISED]
        if (num_more := self.counts[kind] - MAX_RAISED) > 0:
            yield f"{format_count(num_more, 'more error')} of the kind {kind}."

    def count(self, severity: str) -> int:
        """Return the number of findings of a severity."""
        return sum(num for kind, num in self.counts.items() if SEVERITY_BY_KIND[kind] == severity)

    def to_dict(self) -> dict[str, Any]:
        """Return ``counts`` by kind, and ``reported`` with kind, severity, path and message, for report.json."""
        reported = [asdict(finding) | {"severity": finding.severity} for finding in self.reported]
        return {"counts": dict(sorted(self.counts.items())), "reported": reported}

    def log(self) -> None:
        """Log the first unusable images and warnings of each kind, and the number of all of that kind."""
        num_logged: Counter[str] = Counter()
        for finding in self.reported:
            num_logged[finding.kind] += 1
            if finding.severity in ("unusable", "warning") and num_logged[finding.kind] <= MAX_LOGGED:
                log.warning("validate: %s path=%s %s", finding.kind, finding.path or "-", finding.message)
        for kind, num in sorted(self.counts.items()):
            if num > MAX_LOGGED and SEVERITY_BY_KIND[kind] in ("unusable", "warning"):
                log.warning("validate: %s total=%d logged=%d", kind, num, MAX_LOGGED)
