"""Label fixes: ``label_fixes.csv`` at the root of the store, with corrected labels and images to drop.

A fix with a ``sha256`` applies to the image with that content, wherever its file is now; its id only distinguishes
copies. A fix without a ``sha256`` applies to the image with that id or path.
"""

import csv
import hashlib
import io
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from carclf.dataset.findings import Finding, format_labels
from carclf.dataset.layout import stored_name
from carclf.errors import DataError
from carclf.services.storage import Store

if TYPE_CHECKING:
    import pandas as pd

LABEL_FIXES_FILE = "label_fixes.csv"
REQUIRED_COLUMNS = ["id", "action", "label"]
SHA256_COLUMN = "sha256"  # optional fourth column
_HEADERS = f"The header must be {','.join(REQUIRED_COLUMNS)} or {','.join(REQUIRED_COLUMNS)},{SHA256_COLUMN}."
_HINT = f"Fix {LABEL_FIXES_FILE} at the root of the store, or remove it."


@dataclass(frozen=True)
class LabelFix:
    """One line of the file: the image, and whether to ``relabel`` or to ``drop`` it.

    ``id`` is the image's id, or its path if several images have that id. ``label`` is None for a drop.
    """

    line_number: int
    id: str
    action: str
    label: str | None
    sha256: str = ""


@dataclass(frozen=True)
class LabelFixes:
    """The fixes in a file, and the SHA-256 of its bytes ("" if the file is missing)."""

    entries: tuple[LabelFix, ...] = ()
    sha256: str = ""


@dataclass
class FixedIndex:
    """An index with the fixes applied, the change of each fixed image, and the fixes that match no image."""

    index: "pd.DataFrame"
    changes: list[dict[str, Any]] = field(default_factory=list)
    unmatched: list[LabelFix] = field(default_factory=list)

    def findings(self) -> list[Finding]:
        """Return a warning for each unmatched fix."""
        return [Finding("unmatched_label_fix", fix.id, f"The fix in {LABEL_FIXES_FILE} is not applied: "
                                                       f"{_unmatched_reason(fix)}.") for fix in self.unmatched]


def _unmatched_reason(fix: LabelFix) -> str:
    if not fix.sha256:
        return "no training image has this id"
    return "no training image has this sha256, or several copies have it and none of them this id"


def read_fixes(store: Store) -> LabelFixes:
    """Return the label fixes of a store; none if the file is missing. Raises DataError if it is invalid."""
    return LabelFixes() if (file := store.read(LABEL_FIXES_FILE)) is None else parse_fixes(file.data)


def parse_fixes(data: bytes, name: str = LABEL_FIXES_FILE) -> LabelFixes:
    """Return the fixes in the bytes of a file. Raises DataError with the name and the line number if it is invalid."""
    try:
        return LabelFixes(_parse_lines(data), hashlib.sha256(data).hexdigest())
    except ValueError as error:
        hint = _HINT if name == LABEL_FIXES_FILE else "Fix it."
        raise DataError(f"{name}: {error} {hint} {_HEADERS}") from error


def _parse_lines(data: bytes) -> tuple[LabelFix, ...]:
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        rows = [(reader.line_num, row) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"it is not a valid CSV file: {error}.") from error
    header = rows[0][1] if rows else []
    if header not in (REQUIRED_COLUMNS, [*REQUIRED_COLUMNS, SHA256_COLUMN]):
        raise ValueError(f"the header is {','.join(header)!r}.")
    fixes: dict[str, LabelFix] = {}
    for line_number, row in rows[1:]:
        fix = _parse_line(line_number, row, header)
        if (earlier := fixes.setdefault(fix.id, fix)) is not fix:
            raise ValueError(f"lines {earlier.line_number} and {line_number}: duplicate id {fix.id!r}.")
    return tuple(fixes.values())


def _parse_line(line_number: int, row: list[str], header: list[str]) -> LabelFix:
    line = f"line {line_number}"
    if len(row) != len(header) or not row[0]:
        raise ValueError(f"{line}: expected {len(header)} values {','.join(header)}, not {row}.")
    image_id, action, label, sha256 = [*row, ""][:4]
    image_id = "/".join(map(stored_name, image_id.split("/")))
    if sha256 and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError(f"{line}: {sha256!r} is not a valid SHA-256 of an image file. Leave it empty to name the "
                         "image by its id alone.")
    if action == "drop" and not label:
        return LabelFix(line_number, image_id, action, None, sha256)
    if action == "relabel" and label:
        return LabelFix(line_number, image_id, action, label, sha256)
    raise ValueError(f"{line}: invalid action {action!r} with label {label!r}. Write relabel with the name of the "
                     "correct class, or drop with an empty label.")


def check_fixes(fixes: LabelFixes, images: "pd.DataFrame", classes: set[str]) -> None:
    """Raise the errors of ``apply_fixes`` that the rows of a layout reveal, before the images are read.

    Fixes with a ``sha256`` are checked later.
    """
    _require_classes(fixes, classes)
    by_name = LabelFixes(tuple(fix for fix in fixes.entries if not fix.sha256))
    apply_fixes(images.assign(problem_kind="", problem="", sha256=""), by_name, classes)


def apply_fixes(index: "pd.DataFrame", fixes: LabelFixes, classes: set[str]) -> FixedIndex:
    """Return a copy of the index with the fixes applied.

    Raises DataError if a fix has an unknown class or matches several images, or if two fixes match the same image.
    """
    _require_classes(fixes, classes)
    result = FixedIndex(index.copy())
    rows_by_name = _rows_by_name(index, fixes)
    fix_by_row: dict[int, LabelFix] = {}
    for fix in fixes.entries:
        rows = sorted(_matching_rows(fix, rows_by_name))
        if not rows:
            result.unmatched.append(fix)
            continue
        if len(rows) > 1:
            raise DataError(f"{LABEL_FIXES_FILE}: line {fix.line_number}: several images have the id {fix.id!r}: "
                            f"{', '.join(index.loc[rows, 'path'])}. Use the path of one of them instead. {_HINT}")
        if (earlier := fix_by_row.setdefault(rows[0], fix)) is not fix:
            raise DataError(f"{LABEL_FIXES_FILE}: lines {earlier.line_number} and {fix.line_number}: both match the "
                            f"image {index['path'][rows[0]]}. Keep only one line. {_HINT}")
        _apply(fix, rows[0], result)
    return result


def _require_classes(fixes: LabelFixes, classes: set[str]) -> None:
    for fix in fixes.entries:
        if fix.label is not None and fix.label not in classes:
            raise DataError(f"{LABEL_FIXES_FILE}: line {fix.line_number}: unknown class {fix.label!r}. The classes are "
                            f"{format_labels(classes)}. {_HINT}")


def _rows_by_name(index: "pd.DataFrame", fixes: LabelFixes) -> dict[str, set[int]]:
    """Return the rows of labeled images by each id, path and SHA-256 that a fix names."""
    names = {fix.id for fix in fixes.entries} | {fix.sha256 for fix in fixes.entries if fix.sha256}
    labeled = index[index["source"] != "test"]
    rows_by_name = defaultdict[str, set[int]](set)
    for column in ("id", "path", SHA256_COLUMN):
        named = labeled[labeled[column].isin(names)]
        for row, name in zip(named.index, named[column], strict=True):
            rows_by_name[name].add(row)
    return rows_by_name


def _matching_rows(fix: LabelFix, rows_by_name: dict[str, set[int]]) -> set[int]:
    named = rows_by_name.get(fix.id, set())
    if not fix.sha256:
        return named
    copies = rows_by_name.get(fix.sha256, set())
    return copies & named if len(copies) > 1 else copies


def _apply(fix: LabelFix, row: int, result: FixedIndex) -> None:
    index = result.index
    result.changes.append({"path": index.at[row, "path"], "action": fix.action,
                           "old_label": index["label"][row], "new_label": fix.label})
    if fix.label is not None:
        index.at[row, "label"] = fix.label
    elif not index.at[row, "problem"]:
        index.at[row, "problem_kind"] = "dropped"
        index.at[row, "problem"] = f"dropped by {LABEL_FIXES_FILE}"
