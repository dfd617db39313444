"""The list of runs as its page asks for it: filtered, sorted, a part at a time."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from carclf.dashboard.liveness import mark_stale_runs
from carclf.runs.index import list_runs
from carclf.services.storage import Store

MAX_LIMIT = 200
MAX_CHOICES = 50  # recipes that the filter offers
Sortable = Literal["created", "run", "recipe", "dataset", "state", "val_accuracy", "public_score", "decision",
                   "minutes", "gpu_minutes"]
Text = Annotated[str, Field(max_length=200)]
CSV = ("run", "created", "recipe", "dataset", "model", "state", "val_accuracy", "val_accuracy_low", "val_accuracy_high", "public_score", "rank",
       "decision", "champion", "minutes", "gpu_minutes", "gpu", "text")
FORMULAS = ("=", "+", "-", "@", "\t", "\r")
TEXTS = ("run", "recipe", "dataset", "model", "state", "decision", "text")


class RunQuery(BaseModel):
    """Which runs, in which order, from which position on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: Text = ""
    recipe: Text = ""
    decision: Text = ""
    state: Text = ""
    sort: Sortable = "created"
    descending: bool = True
    offset: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 50


def query_runs(store: Store, wanted: RunQuery) -> dict[str, Any]:
    """``rows`` of the part, ``num_matching``, ``num_runs``; all ``recipes``, ``decisions`` and ``states`` there are."""
    every = mark_stale_runs(store, list_runs(store))
    found = filter_and_sort(every, wanted)
    return {
        "rows": found[wanted.offset : wanted.offset + wanted.limit], "num_matching": len(found), "num_runs": len(every),
        "recipes": _choices(every, "recipe"), "decisions": _choices(every, "decision"),
        "states": _choices(every, "state"),
    }


def runs_as_csv(store: Store, wanted: RunQuery) -> str:
    """All the runs that fit, in their order, as a table for a spreadsheet; times are UTC."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(CSV)
    for row in filter_and_sort(mark_stale_runs(store, list_runs(store)), wanted):
        writer.writerow(_cell(row[name]) for name in CSV)
    return text.getvalue()


def _cell(value: Any) -> str:
    """A spreadsheet would take a text that begins so for a formula."""
    text = "" if value is None else str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(FORMULAS) else text


def filter_and_sort(every: Sequence[Mapping[str, Any]], wanted: RunQuery) -> list[Mapping[str, Any]]:
    """The rows that fit, in their order; those without the value that is sorted by come last, whatever the order."""
    found = [row for row in every if _fits(row, wanted)]
    known = [row for row in found if row[wanted.sort] not in (None, "")]
    unknown = [row for row in found if row[wanted.sort] in (None, "")]
    return sorted(known, key=lambda row: row[wanted.sort], reverse=wanted.descending) + unknown


def _fits(row: Mapping[str, Any], wanted: RunQuery) -> bool:
    exact = ((wanted.recipe, "recipe"), (wanted.decision, "decision"), (wanted.state, "state"))
    if any(value and row[name] != value for value, name in exact):
        return False
    words = wanted.text.casefold().split()
    text = " ".join(str(row[name]) for name in TEXTS).casefold() if words else ""
    return all(word in text for word in words)


def _choices(every: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    return sorted({str(row[name]) for row in every if row[name]})[:MAX_CHOICES]
