"""What validation finds: a fixed vocabulary, one line for each picture or thing found, and the report's lists."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from carclf.progress import log

# Unusable pictures are left out of everything; warnings and notes change nothing; an error stops the run.
SEVERITY_BY_KIND: dict[str, str] = {
    "empty": "unusable", "truncated": "unusable", "undecodable": "unusable", "too_many_pixels": "unusable",
    "too_small": "unusable", "dropped": "unusable",
    "damaged": "warning", "extreme_aspect_ratio": "warning", "dark": "warning", "bright": "warning", "flat": "warning",
    "blurred": "warning", "duplicate_name": "warning", "conflicting_labels": "warning", "not_in_sample": "warning",
    "label_mismatch": "warning", "class_imbalance": "warning", "unmatched_label_fix": "warning", "invalid_train_csv": "warning",
    "wrong_file_extension": "note", "non_rgb_mode": "note", "turned": "note",
    "unknown_class": "error", "empty_class": "error", "too_few_images": "error", "too_few_classes": "error",
    "too_many_unusable_images": "error", "missing_test_image": "error", "duplicate_test_id": "error",
}
# Of each kind: the report keeps the counts, however many there are. Errors stop the run together, in one message.
MAX_REPORTED, MAX_LOGGED, MAX_RAISED = 200, 10, 20
FEW = 20  # classes that a sentence names


@dataclass(frozen=True)
class Finding:
    """One thing found: its kind, the path or id that it is about ("" for the whole dataset), and a sentence."""

    kind: str
    path: str
    text: str

    @property
    def severity(self) -> str:
        """``unusable``, ``warning``, ``note`` or ``error``."""
        return SEVERITY_BY_KIND[self.kind]


def format_labels(labels: Iterable[int]) -> str:
    """The classes in order, the first ones where they are many."""
    names = [str(label) for label in sorted(labels)]
    return ", ".join(names[:FEW]) + (f" and {len(names) - FEW} more" if len(names) > FEW else "")


class Findings:
    """Counts of all findings, and the first ones of each kind."""

    def __init__(self, findings: Iterable[Finding] = ()) -> None:
        self.counts: Counter[str] = Counter()
        self.listed: list[Finding] = []
        self.warnings: dict[str, str] = {}  # by path, for the index's column
        self.add(findings)

    def add(self, findings: Iterable[Finding]) -> None:
        """Count them, and keep what there is room for."""
        for finding in findings:
            self.counts[finding.kind] += 1
            if self.counts[finding.kind] <= MAX_REPORTED:
                self.listed.append(finding)
            if finding.severity == "warning":
                before = self.warnings.get(finding.path)
                self.warnings[finding.path] = f"{before}; {finding.text}" if before else finding.text

    @property
    def errors(self) -> list[str]:
        """The sentences of what stops the run: the first of each kind, and how many more there are."""
        kinds = [kind for kind in self.counts if SEVERITY_BY_KIND[kind] == "error"]
        told = [[finding.text for finding in self.listed if finding.kind == kind][:MAX_RAISED] for kind in kinds]
        more = [f"{self.counts[kind] - MAX_RAISED} more errors are of the last one's kind." for kind in kinds]
        return [text for kind, texts, rest in zip(kinds, told, more, strict=True)
                for text in [*texts, *[rest] * (self.counts[kind] > MAX_RAISED)]]

    def count(self, severity: str) -> int:
        """How many there are of that severity."""
        return sum(number for kind, number in self.counts.items() if SEVERITY_BY_KIND[kind] == severity)

    def report(self) -> dict[str, Any]:
        """For report.json: ``counts`` by kind, and ``listed`` with kind, severity, path and text."""
        listed = [asdict(finding) | {"severity": finding.severity} for finding in self.listed]
        return {"counts": dict(sorted(self.counts.items())), "listed": listed}

    def log(self) -> None:
        """A line for each of the first, notes apart, and one for how many more there are."""
        told: Counter[str] = Counter()
        for finding in self.listed:
            told[finding.kind] += 1
            if finding.severity in ("unusable", "warning") and told[finding.kind] <= MAX_LOGGED:
                excluded = "left out " if finding.severity == "unusable" else ""
                log.warning("%s%s", f"{excluded}{finding.path}: " if finding.path else "", finding.text)
        for kind, number in sorted(self.counts.items()):
            if number > MAX_LOGGED and SEVERITY_BY_KIND[kind] in ("unusable", "warning"):
                log.warning("%s: %d in all, %d of them above", kind, number, MAX_LOGGED)
