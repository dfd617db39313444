"""``label_fixes.csv`` at the store's root: labels that somebody looked at and put right, or pictures to leave out.

A fix with a ``sha256`` means the picture of that content, wherever it lies now; its id only tells copies apart. One
without means whatever has that id.
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from carclf.dataset.findings import Finding, format_labels
from carclf.errors import DataError
from carclf.services.storage import Store

if TYPE_CHECKING:
    import pandas as pd

    from carclf.dataset.indexing import ImagePath

LABEL_FIXES_FILE = "label_fixes.csv"
REQUIRED_COLUMNS = ["id", "action", "label"]
SHA256_COLUMN = "sha256"  # a fourth column, which people need not write
COLUMNS = f"its header is {','.join(REQUIRED_COLUMNS)} or {','.join(REQUIRED_COLUMNS)},{SHA256_COLUMN}."
MEND = f"Mend {LABEL_FIXES_FILE} at the store's root, or remove it; {COLUMNS}"
MEND_OTHER = f"Mend it; {COLUMNS}"


@dataclass(frozen=True)
class LabelFix:
    """One line: the picture (its id, or its path where several have that id), relabel or drop, and the right class."""

    line: int
    id: str
    action: str
    label: int | None
    sha256: str = ""


@dataclass(frozen=True)
class LabelFixes:
    """The lines of the file, and the SHA-256 of its bytes ("" where there is none)."""

    lines: tuple[LabelFix, ...] = ()
    sha256: str = ""


@dataclass
class FixedIndex:
    """What became of the fixes: each that changed a row with what it was before, and those without a picture."""

    index: "pd.DataFrame"
    applied: list[dict[str, Any]] = field(default_factory=list)
    unknown: list[LabelFix] = field(default_factory=list)

    def findings(self) -> list[Finding]:
        """A warning for each fix without a picture."""
        return [Finding("unmatched_label_fix", fix.id, f"{LABEL_FIXES_FILE} names it, but {_missing(fix)}; the fix is not applied")
                for fix in self.unknown]


def _missing(fix: LabelFix) -> str:
    return ("no training picture has the content that is meant, or only copies under other names do" if fix.sha256
            else "no training picture has this id")


def read_fixes(store: Store) -> LabelFixes:
    """The store's label fixes; none where the file is missing. DataError names the line that is wrong."""
    return LabelFixes() if (found := store.read(LABEL_FIXES_FILE)) is None else parse_fixes(found.data)


def parse_fixes(data: bytes, name: str = LABEL_FIXES_FILE) -> LabelFixes:
    """The fixes in a file's bytes; DataError names the file and the line that is wrong."""
    try:
        return LabelFixes(_lines(data), hashlib.sha256(data).hexdigest())
    except ValueError as error:
        raise DataError(f"{name}{error} {MEND if name == LABEL_FIXES_FILE else MEND_OTHER}") from error


def _lines(data: bytes) -> tuple[LabelFix, ...]:
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f" is no CSV: {error}.") from error
    if not rows or rows[0] not in (REQUIRED_COLUMNS, [*REQUIRED_COLUMNS, SHA256_COLUMN]):
        raise ValueError(f" begins with {rows[0] if rows else 'nothing'}.")
    lines = tuple(_line(number, row, rows[0]) for number, row in enumerate(rows[1:], start=2) if row)
    seen: dict[str, int] = {}
    for fix in lines:
        if fix.id in seen:
            raise ValueError(f", lines {seen[fix.id]} and {fix.line}: {fix.id!r} is there twice.")
        seen[fix.id] = fix.line
    return lines


def _line(number: int, row: list[str], header: list[str]) -> LabelFix:
    place = f", line {number}"
    if len(row) != len(header) or not row[0]:
        raise ValueError(f"{place}: {row} are not the {len(header)} values {','.join(header)}.")
    name, action, label, content = [*row, ""][:4]
    if content and not re.fullmatch("[0-9a-f]{64}", content):
        raise ValueError(f"{place}: {content!r} is no SHA-256 of a picture's file; leave it empty to name by id alone.")
    if action == "drop" and not label:
        return LabelFix(number, name, action, None, content)
    if action == "relabel" and label.isdecimal() and label.isascii() and len(label) < 10:
        return LabelFix(number, name, action, int(label), content)
    raise ValueError(f"{place}: {action!r} with the label {label!r} is unknown; write relabel with the right class's "
                     "number, or drop with an empty label.")


def check_fixes(fixes: LabelFixes, places: "Iterable[ImagePath]", classes: set[int] | None) -> None:
    """Raise what ``apply_fixes`` would, as far as it can be known before the pictures are read.

    Without ``classes`` they are those of the places. What a fix with a content means is known later.
    """
    import pandas as pd

    wanted = {fix.id for fix in fixes.lines if not fix.sha256}
    found, labels, columns = [], set[int](), ["id", "path", "label", "source"]
    for place in places:
        if place.source == "train" and place.well:
            labels.add(place.label)
        if place.id in wanted or place.path in wanted:
            found.append([getattr(place, column) for column in columns])
    _require_classes(fixes, labels if classes is None else classes)
    index = pd.DataFrame(found, columns=columns).assign(problem_kind="", problem="", sha256="")
    apply_fixes(index, LabelFixes(tuple(fix for fix in fixes.lines if not fix.sha256)), classes or labels)


def apply_fixes(index: "pd.DataFrame", fixes: LabelFixes, classes: set[int]) -> FixedIndex:
    """A new index with the fixes in it.

    DataError for a class that is none, for a name of several pictures, and for a picture that two lines name.
    """
    _require_classes(fixes, classes)
    done, places = FixedIndex(index.copy()), _places(index, fixes)
    lines: dict[int, int] = {}  # of each row that was named
    for fix in fixes.lines:
        match sorted(_meant(fix, places)):
            case []:
                done.unknown.append(fix)
            case [row]:
                if (before := lines.setdefault(row, fix.line)) != fix.line:
                    raise DataError(f"{LABEL_FIXES_FILE}, lines {before} and {fix.line}: both name the picture "
                                    f"{index['path'][row]}. Keep one of them. {MEND}")
                _apply(fix, row, done)
            case several:
                paths = ", ".join(index.loc[several, "path"])
                raise DataError(f"{LABEL_FIXES_FILE}, line {fix.line}: {fix.id!r} is the name of several pictures ({paths}). "
                                f"Write the path of the one that is meant. {MEND}")
    return done


def _require_classes(fixes: LabelFixes, classes: set[int]) -> None:
    for fix in fixes.lines:
        if fix.label is not None and fix.label not in classes:
            raise DataError(f"{LABEL_FIXES_FILE}, line {fix.line}: there is no class {fix.label}; the classes are "
                            f"{format_labels(classes)}. {MEND}")


def _places(index: "pd.DataFrame", fixes: LabelFixes) -> dict[str, set[int]]:
    """The rows of labelled pictures by the wanted ids, paths and contents."""
    wanted = {fix.id for fix in fixes.lines} | {fix.sha256 for fix in fixes.lines if fix.sha256}
    labelled, places = index[index["source"] != "test"], dict[str, set[int]]()
    for column in ("id", "path", SHA256_COLUMN):
        named = labelled[labelled[column].isin(wanted)]
        for row, name in zip(named.index, named[column], strict=True):
            places.setdefault(name, set()).add(row)
    return places


def _meant(fix: LabelFix, places: dict[str, set[int]]) -> set[int]:
    named = places.get(fix.id, set())
    if not fix.sha256:
        return named
    same = places.get(fix.sha256, set())
    return same & named if len(same) > 1 else same


def _apply(fix: LabelFix, row: int, done: FixedIndex) -> None:
    index = done.index
    done.applied.append({"path": index.at[row, "path"], "action": fix.action, "from": int(index["label"][row]),
                         "to": fix.label})
    if fix.label is not None:
        index.at[row, "label"] = fix.label
    elif not index.at[row, "problem"]:
        index.at[row, "problem_kind"], index.at[row, "problem"] = "dropped", f"dropped by {LABEL_FIXES_FILE}"
