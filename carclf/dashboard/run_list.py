"""The list of runs: filtered, sorted, and split into pages."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from carclf.dashboard.liveness import mark_stale_runs
from carclf.dashboard.run_reader import Facts
from carclf.metrics import METRICS
from carclf.runs.index import list_runs
from carclf.services.storage import Store

MAX_LIMIT = 200
MAX_CHOICES = 50  # values that a filter offers
Row = Mapping[str, Any]  # of the run index
SortKey = Literal[
    "created", "run", "recipe", "dataset", "state", "val_metric", "val_accuracy", "public_score", "decision", "minutes",
    "gpu_minutes"
]
FilterText = Annotated[str, Field(max_length=200)]
CSV_COLUMNS = (
    "run", "created", "recipe", "dataset", "model", "state", "metric", "val_metric", "val_metric_low",
    "val_metric_high", "val_accuracy", "val_accuracy_low", "val_accuracy_high", "public_score", "rank", "decision",
    "champion", "minutes", "gpu_minutes", "gpu", "text",
)
FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r")
SEARCHED_COLUMNS = ("run", "recipe", "dataset", "model", "state", "decision", "text")


class RunQuery(BaseModel):
    """Filters, order and part of the list of runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: FilterText = ""  # words that must all occur; case is ignored
    recipe: FilterText = ""
    decision: FilterText = ""
    state: FilterText = ""
    sort: SortKey = "created"
    descending: bool = True
    offset: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 50


class RunPage(Facts):
    """A part of the list, the number of matching and of all runs, and the values that the filters offer."""

    rows: tuple[dict[str, Any], ...]
    num_matching: int
    num_runs: int
    recipes: tuple[str, ...]
    decisions: tuple[str, ...]
    states: tuple[str, ...]


def query_runs(store: Store, query: RunQuery) -> RunPage:
    """Return the part of the list that the query selects."""
    runs = mark_stale_runs(store, list_runs(store))
    matching = filter_and_sort(runs, query)
    return RunPage(
        rows=matching[query.offset : query.offset + query.limit], num_matching=len(matching), num_runs=len(runs),
        recipes=_choices(runs, "recipe"), decisions=_choices(runs, "decision"), states=_choices(runs, "state"),
    )


def runs_as_csv(store: Store, query: RunQuery) -> str:
    """Return all matching runs, ignoring offset and limit, as CSV for a spreadsheet. Times are UTC."""
    rows = filter_and_sort(mark_stale_runs(store, list_runs(store)), query)
    return to_csv(CSV_COLUMNS, ([row[name] for name in CSV_COLUMNS] for row in rows))


def to_csv(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a table as CSV for a spreadsheet, which evaluates none of its cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows(map(_csv_cell, row) for row in rows)
    return text.getvalue()


def _csv_cell(value: Any) -> str:
    """Return the cell's text. A leading quote keeps a spreadsheet from evaluating text that starts like a formula."""
    text = "" if value is None else str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(FORMULA_PREFIXES) else text


def filter_and_sort(rows: Sequence[Row], query: RunQuery) -> list[Row]:
    """Return the matching rows in order. Rows without a value in the sorted column come last in either direction.

    In descending order of the metric, the best run is first, also if a lower value is better.
    """
    matching = [row for row in rows if _matches(row, query)]
    with_value = [row for row in matching if row[query.sort] not in (None, "")]
    without_value = [row for row in matching if row[query.sort] in (None, "")]
    return sorted(with_value, key=partial(_sort_key, query.sort), reverse=query.descending) + without_value


def _sort_key(name: str, row: Row) -> Any:
    if name != "val_metric":
        return row[name]
    metric = METRICS[row["metric"]]
    return metric.name == "accuracy", metric.name, metric.improvement(row["val_metric"], 0)


def _matches(row: Row, query: RunQuery) -> bool:
    filters = ((query.recipe, "recipe"), (query.decision, "decision"), (query.state, "state"))
    if any(value and row[name] != value for value, name in filters):
        return False
    words = query.text.casefold().split()
    text = " ".join(str(row[name]) for name in SEARCHED_COLUMNS).casefold() if words else ""
    return all(word in text for word in words)


def _choices(rows: Sequence[Row], name: str) -> tuple[str, ...]:
    return tuple(sorted({str(row[name]) for row in rows if row[name]})[:MAX_CHOICES])
