"""``runs.json``: the index of runs, a small row for each, so that a list of thousands is one read.

It is derived from the records alone, and made anew where it is missing or damaged. Whoever changes it reads the record
after the index: so the row that stands at last is that of the last record, in whatever order processes note theirs.
"""

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from carclf.champion import read_state
from carclf.errors import CarclfError, DataError
from carclf.formatting import finite_number, truncate
from carclf.progress import log
from carclf.runs.record import RUN_ID, Record, read_record
from carclf.services.storage import Store, update_object

INDEX_FILE, VERSION = "runs.json", 1
Row = dict[str, Any]
Rows = Mapping[str, Row]
LAST, TRAINING = "score", ("train_head", "fine_tune")
MAX_TEXT = 200  # characters of any text in a row
NUM_READERS = 16  # records that are read at once


def list_runs(store: Store) -> list[Row]:
    """A row for each run, the newest first; the rows are the caller's own.

    Each has ``run``, ``recipe``, ``created`` and ``updated`` (ISO 8601, UTC), ``dataset`` and ``model`` (keys),
    ``state`` (running, waiting, failed, damaged, done, or open: stages are left and none is under way), ``stage`` (the
    last one that was begun), ``text`` (why it failed, waits, or skips what follows), ``val_accuracy``, ``low``,
    ``high``, ``public_score``, ``rank`` (numbers or None), ``decision`` (promoted, refused, awaiting approval or ""),
    ``minutes``, ``gpu_minutes``, ``gpu`` (its name), and ``champion``: whether it made the present champion. "" and
    None stand for what is not known. DataError where ``champion.json`` is damaged.
    """
    found = sorted(_read(store).values(), key=lambda row: (row["created"], row["run"]), reverse=True)
    champion = _champions_run(store, found)
    return [row | {"champion": row["run"] == champion} for row in found]


def update_index(store: Store, run_id: str) -> None:
    """Bring a run's row up to date with its record; where that fails there is a warning, never an error."""
    try:
        update_object(store, INDEX_FILE, lambda data: _noted(store, data, {run_id}))
    except CarclfError as error:
        log.warning("The index of runs was not brought up to date: %s Mend it by: carclf runs reindex", error)


def rebuild_index(store: Store) -> int:
    """Make the index anew from all records; the number of runs in it."""
    return len(_rebuilt(store))


def is_champion(store: Store, row: Row) -> bool:
    """Whether a run made the present champion, as its row in ``rows`` says; DataError for a damaged ``champion.json``.

    Without the other rows a run with the champion's model is believed where no run is named.
    """
    event = (read_state(store) or {}).get("champion") or {}
    return bool(event) and (event.get("run") or row["run"]) == row["run"] and event["model"] == row["model"]


def index_row(record: Record) -> Row:
    """What the index says of a run: a function of its record alone."""
    stages, latest = record["stages"], _latest_attempt(record)
    told = {stage: done.get("metrics", {}) for stage, done in stages.items()}
    evaluated, scored = told.get("evaluate", {}), told.get("score", {})
    decision = latest.get("metrics", {}).get("decision") or told.get("promote", {}).get("decision")
    return {
        "run": _text(record.get("run")), "recipe": _text(record.get("recipe")), "created": _text(record.get("created")),
        "updated": _text(record.get("updated") or record.get("created")),
        "dataset": _text(stages.get("validate", {}).get("key")), "model": _text(stages.get("fine_tune", {}).get("key")),
        **_state(stages, latest),
        **{name: finite_number(evaluated.get(name)) for name in ("val_accuracy", "val_accuracy_low", "val_accuracy_high")},
        **{name: finite_number(scored.get(name)) for name in ("public_score", "rank")},
        "decision": _text(decision), **_minutes(stages),
    }


def _latest_attempt(record: Record) -> dict[str, Any]:
    attempts: list[dict[str, Any]] = list(record.get("attempts", {}).values())
    return max(attempts, key=lambda attempt: str(attempt.get("since", "")), default={})


def _state(stages: dict[str, Any], latest: dict[str, Any]) -> Row:
    if latest:
        return {name: _text(latest.get(name)) for name in ("state", "stage", "text")}
    stage = next(reversed(stages), "")  # stages are noted in the chain's order
    skip = stages[stage].get("skip_reason", "") if stage else ""
    return {"state": "done" if skip or stage == LAST else "pending", "stage": _text(stage), "text": _text(skip)}


def _minutes(stages: Mapping[str, Any]) -> Row:
    on_gpu = {stage: stages[stage] for stage in TRAINING if stages.get(stage, {}).get("gpu")}
    return {"minutes": _sum_of_minutes(stages.values()), "gpu_minutes": _sum_of_minutes(on_gpu.values()),
            "gpu": _text(next((done["gpu"] for done in on_gpu.values()), ""))}


def _sum_of_minutes(results: Iterable[Mapping[str, Any]]) -> float:
    return round(sum(finite_number(done.get("seconds")) or 0.0 for done in results) / 60, 2)


def _text(value: Any) -> str:
    return truncate("" if value is None else str(value), MAX_TEXT)


def _champions_run(store: Store, found: list[Row]) -> str | None:
    """The run that made the champion; where its record is gone, the newest one with the champion's model."""
    state = read_state(store)
    event = (state or {}).get("champion") or {}
    if any(row["run"] == event.get("run") for row in found):
        return str(event["run"])
    return next((row["run"] for row in found if row["model"] and row["model"] == event.get("model")), None)


def _read(store: Store) -> Rows:
    found = store.read(INDEX_FILE)
    known = None if found is None else _parsed(found.data)
    return _rebuilt(store) if known is None else known


def _rebuilt(store: Store) -> Rows:
    """The rows of all records, written as the index; a warning where that fails, as on a store that is only read."""
    made: dict[str, Row] | None = None
    before: Rows = {}

    def change(data: bytes | None) -> bytes | None:
        nonlocal made, before
        now = (_parsed(data) if data else None) or {}
        # What others noted since the records were read is read again, and nothing else.
        names = _run_ids(store) if made is None else [
            run for run in now.keys() | before.keys() if now.get(run) != before.get(run)]
        made, before = _with_rows(made or {}, _rows_of(store, names)), now
        return _written(made) if made or data else None

    try:
        update_object(store, INDEX_FILE, change)
    except CarclfError as error:
        if made is None:
            raise
        log.warning("The index of runs was not written: %s", error)
    return made or {}


def _noted(store: Store, data: bytes | None, names: Iterable[str]) -> bytes:
    known = None if data is None else _parsed(data)
    if known is None:  # of a store from before there was an index, or damaged: all records tell it
        known, names = {}, _run_ids(store)
    return _written(_with_rows(known, _rows_of(store, names)))


def _run_ids(store: Store) -> list[str]:
    names = (key.removeprefix("runs/").removesuffix(".json") for key in store.list_keys("runs/") if key.endswith(".json"))
    return [name for name in names if RUN_ID.fullmatch(name)]


def _rows_of(store: Store, names: Iterable[str]) -> dict[str, Row | None]:
    with ThreadPoolExecutor(NUM_READERS) as pool:
        return dict(pool.map(lambda name: (name, _row(store, name)), names))


def _row(store: Store, run_id: str) -> Row | None:
    try:
        record = read_record(store, run_id)
        return None if record is None else index_row(record) | {"run": run_id}
    except (DataError, KeyError, TypeError, AttributeError) as error:
        text = str(error) if isinstance(error, DataError) else f"the record of the run is damaged: {error!r}"
        return index_row({"run": run_id, "stages": {}}) | {"state": "damaged", "text": _text(text)}


def _with_rows(known: Rows, new: Mapping[str, Row | None]) -> dict[str, Row]:
    return {run: row for run, row in {**known, **new}.items() if row is not None}


def _written(known: Rows) -> bytes:
    return json.dumps({"version": VERSION, "rows": dict(sorted(known.items()))}, separators=(",", ":")).encode()


@lru_cache(maxsize=2)
def _parsed(data: bytes) -> Rows | None:
    """The rows of the index's bytes; None where they are none, or of another version."""
    try:
        found = json.loads(data)
    except ValueError:
        return None
    if not isinstance(found, dict) or found.get("version") != VERSION or not isinstance(found.get("rows"), dict):
        return None
    known: Rows = found["rows"]
    fields = index_row({"stages": {}}).keys()
    whole = all(isinstance(row, dict) and row.keys() == fields and row["run"] == run for run, row in known.items())
    return known if whole else None
