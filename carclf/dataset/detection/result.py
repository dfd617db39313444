"""The detected layout of a dataset: what each image is, the classes, and the form of a submission."""

import re
import unicodedata
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import TypeAdapter

from carclf.dataset.findings import Finding
from carclf.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Detection:
    """What was detected about one question, with its evidence.

    ``question`` is files, subsets, labels, ids, test, classes, groups, metric or submission; ``result`` is a few words,
    ``evidence`` what shows it, with counts.
    """

    question: str
    result: str
    evidence: str

    def __str__(self) -> str:
        return f"{self.question}: {self.result} ({self.evidence})"


def class_name(text: str) -> str:
    """Return the name of a class as it is stored: composed characters (NFC), without spaces around it."""
    return unicodedata.normalize("NFC", text.strip())


def class_key(name: str) -> str:
    """Return the form in which the names of classes are compared: C/V Cargo, C-V Cargo and c_v_cargo are equal.

    Numbers stay text: 1 and 01 differ. Signs stay: A+ and A-, 1 and -1.
    """
    name = class_name(name)
    sign = next(iter(re.findall(r"^-(?=[0-9.]+$)|[+-]$", name)), "")
    return (re.sub(r"[\W_]+", "-", name.casefold()).strip("-") + sign) if re.search(r"\w", name) else name


def number_key(name: str) -> str:
    """Return a class without leading zeros if it is a number, else its ``class_key``."""
    return (name.lstrip("0") or "0") if re.fullmatch("[0-9]+", name) else class_key(name)


@dataclass(frozen=True)
class SubmissionFormat:
    """The form of a submission.

    ``sample`` is the path of the sample submission in the source, ``id_column`` its column of ids, ``columns`` the
    others in order, and ``id_position`` that of the ids in the file. ``kind`` is what the columns contain: the class
    (label), the probability of ``positive_class`` (positive), or a probability per class (probabilities). ``values``
    maps each class name to the text that a label submission contains, or to the column of its probability.
    """

    sample: str
    id_column: str
    columns: tuple[str, ...]
    kind: Literal["label", "positive", "probabilities"]
    values: dict[str, str]
    positive_class: str = ""
    id_position: int = 0

    @property
    def header(self) -> list[str]:
        """The columns in the order of the sample."""
        return [*self.columns[:self.id_position], self.id_column, *self.columns[self.id_position:]]

    def with_positive_class(self, name: str) -> Self:
        """Return the form with another positive class; "" changes nothing. The values 0 and 1 follow the class.

        ``name`` is the class, or the label that a submission has for it.

        Raises:
            ConfigError: The data have no class of this name.
        """
        if not name or not self.positive_class:
            return self
        key = class_key(name)
        positive = next((label for label, value in self.values.items() if key in map(class_key, (label, value))), "")
        if not positive:
            raise ConfigError(f"submit.positive_class is {name!r}, but the classes are {', '.join(self.values)}.")
        is_encoded = set(self.values.values()) == {"0", "1"} and self.kind == "label"
        values = {label: str(int(label == positive)) for label in self.values} if is_encoded else self.values
        return replace(self, positive_class=positive, values=values)


@dataclass(frozen=True)
class Layout:
    """A dataset's images and their meaning.

    ``images`` has one row per image, sorted by path:

    - ``id``: as the sample submission writes it for test images; else the file name, or the path if several images
      have that name
    - ``path``: relative to the source's folder
    - ``label``: class name; "" for unlabeled images
    - ``source``: train; val (given as validation images); holdout (labeled test images, which are never trained on);
      test (unlabeled, to be predicted); or extra (extra data, for training only)
    - ``group``: value of the group, such as a patient; "" if unknown

    ``class_names`` are in natural order (2 before 10). ``metric`` is a name in carclf.metrics. ``submission`` is None
    if there is nothing to submit. ``test_ids`` are the ids of the sample submission, in its order. ``findings`` are
    problems of files, folders and tables; ``ignored`` are the paths of the files that have no meaning or
    cannot be read.
    """

    images: "pd.DataFrame"
    class_names: tuple[str, ...]
    metric: str
    submission: SubmissionFormat | None
    detections: tuple[Detection, ...]
    test_ids: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    ignored: tuple[str, ...] = ()


def layout_summary(layout: Layout) -> dict[str, Any]:
    """Return the content of ``layout.json``: a layout without its images."""
    return {
        "class_names": list(layout.class_names), "metric": layout.metric,
        "submission": asdict(layout.submission) if layout.submission else None, "test_ids": list(layout.test_ids),
        "detections": [asdict(detection) for detection in layout.detections],
    }


@dataclass(frozen=True)
class SampleSubmission:
    """The ids to predict, in the order of the sample submission, and the form of a submission; None without one."""

    test_ids: tuple[str, ...]
    submission: SubmissionFormat | None


def read_sample_submission(path: Path) -> SampleSubmission:
    """Return the ids and the form of a submission in a dataset's ``layout.json``."""
    return TypeAdapter(SampleSubmission).validate_json(path.read_bytes())
