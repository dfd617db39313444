"""``runs.json``, the index of runs: one small row per run, so that a list of thousands of runs is a single read.

The index is derived from the run records and is rebuilt if it is missing or damaged. Every writer reads the record
after it has read the index, so the row that wins reflects the latest record, in whatever order processes write.
"""

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from pydantic import with_config
from typing_extensions import TypedDict  # pydantic needs it on Python 3.11

from carclf.champion import champion_event
from carclf.champion_history import MetricName
from carclf.errors import CarclfError, DataError
from carclf.formatting import finite_number, truncate
from carclf.metrics import METRICS
from carclf.progress import log
from carclf.runs.record import RUN_ID, Attempt, Record, StageRecord, read_record
from carclf.services.storage import Store, parse_object, update_object

INDEX_FILE = "runs.json"
VERSION = 4
Row = dict[str, Any]  # StoredRow
Rows = Mapping[str, Row]
LAST = "score"
LAST_OF_EXPERIMENT = "evaluate"  # of the trainings; only the winner is promoted
TRAINING = ("train_head", "fine_tune", "refit")
ACCURACY_METRICS = ("val_accuracy", "val_accuracy_low", "val_accuracy_high")
BOUNDS = ("", "_low", "_high")
MAX_TEXT = 200  # characters of any text in a row
NUM_READERS = 16  # records that are read concurrently


@with_config(extra="forbid")
class StoredRow(TypedDict):
    """A row of the index, described at ``list_runs``."""

    run: str
    recipe: str
    created: str
    updated: str
    dataset: str
    model: str
    state: str
    stage: str
    text: str
    val_accuracy: float | None
    val_accuracy_low: float | None
    val_accuracy_high: float | None
    metric: MetricName
    val_metric: float | None
    val_metric_low: float | None
    val_metric_high: float | None
    public_score: float | None
    rank: float | None
    decision: str
    minutes: float
    gpu_minutes: float
    gpu: str


class StoredIndex(TypedDict):
    """The content of ``runs.json``."""

    version: int
    rows: dict[str, StoredRow]


def list_runs(store: Store) -> list[Row]:
    """Return one row per run, newest first. The caller may change the rows.

    A row has these fields; an unknown value is "" or None:

    - ``run``, ``recipe``, ``created`` and ``updated`` (ISO 8601, UTC)
    - ``dataset`` and ``model``: keys of artifacts
    - ``state``: not started, running, waiting, failed, damaged, done, or incomplete (stages are left and none is
      running: between two stages, or until somebody continues the run)
    - ``stage``: the last stage that was started
    - ``text``: the reason why the run failed, waits, or skips the remaining stages
    - ``val_accuracy``, ``val_accuracy_low``, ``val_accuracy_high``, ``public_score``, ``rank``: a number or None
    - ``metric``, the name of the metric that judges the run, and ``val_metric``, ``val_metric_low``,
      ``val_metric_high``
    - ``decision``: promoted, rejected (by the gate), awaiting approval, declined (by a person), expired (nobody
      responded), or ""
    - ``minutes``, ``gpu_minutes`` and ``gpu``, the GPU's name
    - ``champion``: whether the run produced the current champion

    Raise DataError if ``champion.json`` is damaged.
    """
    stored = store.read(INDEX_FILE)
    indexed = _parse(stored.data if stored else None)
    rows = _rebuild(store) if indexed is None else indexed
    newest_first = sorted(rows.values(), key=lambda row: (row["created"], row["run"]), reverse=True)
    champion = _champion_run(store, newest_first)
    return [row | {"champion": row["run"] == champion} for row in newest_first]


def update_index(store: Store, run_id: str) -> None:
    """Update a run's row from its record. A failure is logged as a warning and never raised."""
    try:
        update_object(store, INDEX_FILE, lambda data: _updated_index(store, data, run_id))
    except CarclfError as error:
        log.warning("runs: index not updated run=%s: %s To rebuild it: carclf runs reindex", run_id, error)


def rebuild_index(store: Store) -> int:
    """Rebuild the index from all records; return the number of runs in it."""
    return len(_rebuild(store))


def is_champion(store: Store, row: Row) -> bool:
    """Return whether the run of this row produced the current champion.

    If the champion names no run, every run with the champion's model counts. Raise DataError if ``champion.json`` is
    damaged.
    """
    event = champion_event(store) or {}
    return bool(event) and (event.get("run") or row["run"]) == row["run"] and event["model"] == row["model"]


def index_row(record: Record) -> Row:
    """Return the row of a run, which depends on its record alone."""
    stages = record["stages"]
    latest = max(record["attempts"].values(), key=lambda attempt: str(attempt.get("since", "")), default=Attempt())
    metrics = {stage: result.get("metrics", {}) for stage, result in stages.items()}
    evaluated = metrics.get("evaluate", {})
    scored = metrics.get("score", {})
    decision = latest.get("metrics", {}).get("decision") or metrics.get("promote", {}).get("decision")
    return {
        **{name: _text(record.get(name)) for name in ("run", "recipe", "created")},
        "updated": _text(record.get("updated") or record.get("created")),
        "dataset": _text(stages.get("validate", {}).get("key")),
        "model": _text(stages.get("fine_tune", {}).get("key")),
        **_state(stages, latest, LAST_OF_EXPERIMENT if "spent_seconds" in record else LAST),
        **{name: finite_number(evaluated.get(name)) for name in ACCURACY_METRICS},
        **_metric_values(evaluated, metrics.get("split", {}).get("metric")),
        **{name: finite_number(scored.get(name)) for name in ("public_score", "rank")},
        "decision": _text(decision),
        **_minutes(stages),
    }


def _metric_values(evaluated: Mapping[str, Any], split_metric: object) -> Row:
    """Return the metric of the evaluation or, before it, of the split: accuracy if an older version wrote them."""
    name = next((name for name in map(str, (evaluated.get("metric"), split_metric)) if name in METRICS), "accuracy")
    source = "val_metric" if "val_metric" in evaluated else "val_accuracy"
    values = {f"val_metric{bound}": finite_number(evaluated.get(f"{source}{bound}")) for bound in BOUNDS}
    return {"metric": name} | values


def _state(stages: Mapping[str, StageRecord], latest: Attempt, last: str) -> Row:
    if latest:
        state = "done" if latest.get("state") in ("declined", "expired", "skipped") else _text(latest.get("state"))
        return {"state": state, **{name: _text(latest.get(name)) for name in ("stage", "text")}}
    stage = next(reversed(list(stages)), "")  # the record keeps the stages in their order
    skip_reason = stages[stage].get("skip_reason", "") if stage else ""
    state = "not started" if not stage else "done" if skip_reason or stage == last else "incomplete"
    return {"state": state, "stage": _text(stage), "text": _text(skip_reason)}


def _minutes(stages: Mapping[str, StageRecord]) -> Row:
    on_gpu = [stages[stage] for stage in TRAINING if stages.get(stage, {}).get("gpu")]
    return {
        "minutes": _sum_minutes(stages.values()),
        "gpu_minutes": _sum_minutes(on_gpu),
        "gpu": _text(on_gpu[0]["gpu"] if on_gpu else ""),
    }


def _sum_minutes(results: Iterable[StageRecord]) -> float:
    return round(sum(finite_number(result.get("seconds")) or 0.0 for result in results) / 60, 2)


def _text(value: Any) -> str:
    return truncate("" if value is None else str(value), MAX_TEXT)


ROW_FIELDS = tuple(index_row(Record(run="", recipe="", config={}, stages={}, attempts={}, created="")))


def _champion_run(store: Store, rows: list[Row]) -> str | None:
    """Return the run that produced the champion or, if its record is gone, the newest run with the same model."""
    event = champion_event(store) or {}
    if any(row["run"] == event.get("run") for row in rows):
        return str(event["run"])
    return next((row["run"] for row in rows if row["model"] and row["model"] == event.get("model")), None)


def _rebuild(store: Store) -> Rows:
    """Return the rows of all records and write the index; on a read-only store the write only logs a warning."""
    rebuilt: dict[str, Row] | None = None
    previous: Rows = {}

    def change(data: bytes | None) -> bytes | None:
        nonlocal rebuilt, previous
        current = _parse(data) or {}
        if rebuilt is None:
            run_ids = list_run_ids(store)
        else:  # after a conflict, read only the records that other processes have changed
            run_ids = [run for run in current.keys() | previous.keys() if current.get(run) != previous.get(run)]
        rebuilt = _merge(rebuilt or {}, _read_records(store, run_ids))
        previous = current
        return _serialize(rebuilt) if rebuilt or data else None

    try:
        update_object(store, INDEX_FILE, change)
    except CarclfError as error:
        if rebuilt is None:
            raise
        log.warning("runs: index not written: %s", error)
    return rebuilt or {}


def _updated_index(store: Store, data: bytes | None, run_id: str) -> bytes:
    rows = _parse(data)
    run_ids = list_run_ids(store) if rows is None else [run_id]
    return _serialize(_merge(rows or {}, _read_records(store, run_ids)))


def list_run_ids(store: Store) -> list[str]:
    """Return the ids of all runs with a record, without reading the records."""
    keys = (key for key in store.list_keys("runs/") if key.endswith(".json"))
    names = (key.removeprefix("runs/").removesuffix(".json") for key in keys)
    return [name for name in names if RUN_ID.fullmatch(name)]


def _read_records(store: Store, run_ids: Iterable[str]) -> dict[str, Row | None]:
    with ThreadPoolExecutor(NUM_READERS) as pool:
        return dict(pool.map(lambda run_id: (run_id, _read_row(store, run_id)), run_ids))


def _read_row(store: Store, run_id: str) -> Row | None:
    try:
        record = read_record(store, run_id)
        return None if record is None else index_row(record) | {"run": run_id}
    except (DataError, KeyError, TypeError, AttributeError) as error:
        text = str(error) if isinstance(error, DataError) else f"The record is damaged: {error!r}."
        empty = Record(run=run_id, recipe="", config={}, stages={}, attempts={}, created="")
        return index_row(empty) | {"state": "damaged", "text": _text(text)}


def _merge(rows: Rows, changes: Mapping[str, Row | None]) -> dict[str, Row]:
    return {run: row for run, row in {**rows, **changes}.items() if row is not None}


def _serialize(rows: Rows) -> bytes:
    return json.dumps({"version": VERSION, "rows": dict(sorted(rows.items()))}, separators=(",", ":")).encode()


@lru_cache(maxsize=2)
def _parse(data: bytes | None) -> Rows | None:
    """Return the rows of an index file, or None if it is missing or damaged, or has another version."""
    if data is None:
        return None
    try:
        index = parse_object(StoredIndex, data, INDEX_FILE, "It is rebuilt.")
    except DataError:
        return None
    return {run: dict(row) for run, row in index["rows"].items()} if _is_consistent(index) else None


def _is_consistent(index: StoredIndex) -> bool:
    return index["version"] == VERSION and all(row["run"] == run for run, row in index["rows"].items())
