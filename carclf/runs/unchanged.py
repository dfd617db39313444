"""Find a completed run that a new one would repeat."""

from collections.abc import Iterator
from datetime import datetime

from carclf.artifacts import Dataset, Model
from carclf.champion import read_state
from carclf.dataset.fixes import read_fixes
from carclf.errors import CarclfError
from carclf.progress import log
from carclf.runs.index import list_runs
from carclf.runs.record import Record, read_record
from carclf.runs.run import Run
from carclf.services.storage import Store
from carclf.training.weights import starting_weights

MAX_CANDIDATES = 20  # records to read
COMPARED = ("recipe", "config", "code", "versions")


def find_unchanged_run(run: Run) -> str:
    """Return the newest completed run that this one would repeat after its download; "" if there is none.

    It has the same archive, settings, code and packages, and since it ended, neither the label fixes, the starting
    weights nor ``champion.json`` have changed. A run with ``force`` repeats none.
    """
    if run.config.force:
        return ""
    try:
        return next((record["run"] for record in _candidates(run) if _is_unchanged(run, record)), "")
    except CarclfError as error:
        log.warning("download: not compared with earlier runs reason=%s", error)
        return ""


def _candidates(run: Run) -> Iterator[Record]:
    """Yield the records of completed runs, newest first; not of those that ended with their download."""
    rows = [row for row in list_runs(run.store)
            if row["state"] == "done" and row["decision"] and row["run"] != run.run_id]
    for row in rows[:MAX_CANDIDATES]:
        if record := read_record(run.store, row["run"]):
            yield record


def _is_unchanged(run: Run, record: Record) -> bool:
    keys = {stage: result["key"] for stage, result in record["stages"].items()}
    is_same = keys.get("download") == run.record["stages"]["download"]["key"] and all(
        name in record and record.get(name) == run.record.get(name) for name in COMPARED
    )
    if not is_same or not {"validate", "train_head"} <= keys.keys() or "updated" not in record:
        return False
    ended = datetime.fromisoformat(record["updated"])
    return all(time <= ended for time in _changes(run.store)) and _has_same_inputs(run, keys)


def _has_same_inputs(run: Run, keys: dict[str, str]) -> bool:
    """Compare the label fixes and the starting weights, which are not in the record, with those in the manifests."""
    dataset = Dataset.find(run.store, keys["validate"])
    head = Model.find(run.store, keys["train_head"])
    if dataset is None or head is None or dataset.settings.get("label_fixes", "") != read_fixes(run.store).sha256:
        return False
    weights = run.config.model.weights
    # The champion's weights are compared by the time of the last change.
    return weights == "champion" or head.settings["model"]["weights"] == starting_weights(weights).identity


def _changes(store: Store) -> list[datetime]:
    """Return the times of all events in ``champion.json``."""
    state = read_state(store)
    return [datetime.fromisoformat(event["time"]) for event in state["history"]] if state else []
