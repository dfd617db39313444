"""``label_fixes.csv`` at the store's root: labels that somebody looked at and put right, or pictures to leave out."""

import csv
import hashlib
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from carclf.data.findings import Finding
from carclf.errors import DataError
from carclf.services.storage import Store

if TYPE_CHECKING:
    import pandas as pd

NAME = "label_fixes.csv"
HEADER = ["id", "action", "label"]
MEND = f"Mend {NAME} at the store's root, or remove it; its header is {','.join(HEADER)}."
MEND_OTHER = f"Mend it; its header is {','.join(HEADER)}."


@dataclass(frozen=True)
class LabelFix:
    """One line: the picture (its id, or its path where several have that id), relabel or drop, and the right class."""

    line: int
    id: str
    action: str
    label: int | None


@dataclass(frozen=True)
class LabelFixes:
    """The lines of the file, and the SHA-256 of its bytes ("" where there is none)."""

    lines: tuple[LabelFix, ...] = ()
    sha256: str = ""


@dataclass
class Applied:
    """What became of the fixes: each that changed a row with what it was before, and the ids that are not there."""

    index: "pd.DataFrame"
    applied: list[dict[str, Any]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def findings(self) -> list[Finding]:
        """A warning for each fix without a picture."""
        return [Finding("unknown_fix", name, f"{NAME} names it, but no training picture has this id")
                for name in self.unknown]


def read_fixes(store: Store) -> LabelFixes:
    """The store's label fixes; none where the file is missing. DataError names the line that is wrong."""
    return LabelFixes() if (found := store.read(NAME)) is None else parse_fixes(found.data)


def parse_fixes(data: bytes, name: str = NAME) -> LabelFixes:
    """The fixes in a file's bytes; DataError names the file and the line that is wrong."""
    try:
        return LabelFixes(_lines(data), hashlib.sha256(data).hexdigest())
    except ValueError as error:
        raise DataError(f"{name}{error} {MEND if name == NAME else MEND_OTHER}") from error


def _lines(data: bytes) -> tuple[LabelFix, ...]:
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f" is no CSV: {error}.") from error
    if not rows or rows[0] != HEADER:
        raise ValueError(f" begins with {rows[0] if rows else 'nothing'}.")
    lines = tuple(_line(number, row) for number, row in enumerate(rows[1:], start=2) if row)
    seen: dict[str, int] = {}
    for fix in lines:
        if fix.id in seen:
            raise ValueError(f", lines {seen[fix.id]} and {fix.line}: {fix.id!r} is there twice.")
        seen[fix.id] = fix.line
    return lines


def _line(number: int, row: list[str]) -> LabelFix:
    place = f", line {number}"
    if len(row) != len(HEADER) or not row[0]:
        raise ValueError(f"{place}: {row} are not the three values id,action,label.")
    name, action, label = row
    if action == "drop" and not label:
        return LabelFix(number, name, action, None)
    if action == "relabel" and label.isdecimal() and label.isascii() and len(label) < 10:
        return LabelFix(number, name, action, int(label))
    raise ValueError(f"{place}: {action!r} with the label {label!r} is unknown; write relabel with the right class's "
                     "number, or drop with an empty label.")


def apply_fixes(index: "pd.DataFrame", fixes: LabelFixes, classes: set[int]) -> Applied:
    """A new index with the fixes in it.

    DataError for a class that is none, for an id of several pictures, and for a picture that two lines name.
    """
    done, places = Applied(index.copy()), _places(index, {fix.id for fix in fixes.lines})
    lines: dict[int, int] = {}  # of each row that was named
    for fix in fixes.lines:
        if fix.label is not None and fix.label not in classes:
            raise DataError(f"{NAME}, line {fix.line}: there is no class {fix.label}; the classes are "
                            f"{', '.join(map(str, sorted(classes)))}. {MEND}")
        match sorted(places.get(fix.id, ())):
            case []:
                done.unknown.append(fix.id)
            case [row]:
                if (before := lines.setdefault(row, fix.line)) != fix.line:
                    raise DataError(f"{NAME}, lines {before} and {fix.line}: both name the picture "
                                    f"{index['path'][row]}, by its id and by its path. Keep one of them. {MEND}")
                _apply(fix, row, done)
            case several:
                paths = ", ".join(index.loc[several, "path"])
                raise DataError(f"{NAME}, line {fix.line}: {fix.id!r} is the name of several pictures ({paths}). "
                                f"Write the path of the one that is meant. {MEND}")
    return done


def _places(index: "pd.DataFrame", wanted: set[str]) -> dict[str, set[int]]:
    """The rows of labelled pictures by the wanted ids and paths."""
    labelled, places = index[index["source"] != "test"], dict[str, set[int]]()
    for column in ("id", "path"):
        named = labelled[labelled[column].isin(wanted)]
        for row, name in zip(named.index, named[column], strict=True):
            places.setdefault(name, set()).add(row)
    return places


def _apply(fix: LabelFix, row: int, done: Applied) -> None:
    index = done.index
    done.applied.append({"path": index.at[row, "path"], "action": fix.action, "from": int(index["label"][row]),
                         "to": fix.label})
    if fix.label is not None:
        index.at[row, "label"] = fix.label
    elif not index.at[row, "problem"]:
        index.at[row, "kind"], index.at[row, "problem"] = "dropped", f"dropped by {NAME}"
