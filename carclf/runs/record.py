"""``runs/<run id>.json``: one run's record, and what of it is changed by compare-and-swap."""

import json
import re
from collections.abc import Callable
from typing import Any

from carclf.errors import ConfigError, DataError
from carclf.services.storage import Store, update_object

Record = dict[str, Any]
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def record_key(run_id: str) -> str:
    """Where a run's record lies; ConfigError for what is no run id."""
    if not RUN_ID.fullmatch(run_id):
        raise ConfigError(f"{run_id!r} is no run id: use letters, digits and ._- only.")
    return f"runs/{run_id}.json"


def read_record(store: Store, run_id: str) -> Record | None:
    """The record, or None where there is none; DataError where it is damaged."""
    found = store.read(record_key(run_id))
    return None if found is None else parse_record(found.data, run_id, store)


def change_record(store: Store, run_id: str, change: Callable[[Record], Record]) -> Record:
    """Replace the record by what ``change`` makes of it, so that two processes of one run lose nothing.

    ConfigError where there is none any more, DataError where it is damaged.
    """
    changed: Record = {}

    def swapped(data: bytes | None) -> bytes:
        nonlocal changed
        if data is None:
            raise ConfigError(f"The record {record_key(run_id)} is gone from {store.url}. Restore it, or begin a new "
                              "run: what this one made is reused.")
        changed = change(parse_record(data, run_id, store))
        return json.dumps(changed, indent=1).encode()

    update_object(store, record_key(run_id), swapped)
    return changed


def parse_record(data: bytes, run_id: str, store: Store) -> Record:
    """What the bytes of a record say; DataError where they are none."""
    try:
        record = json.loads(data)
    except ValueError:
        record = None
    if _is_record(record):
        return dict(record)
    raise DataError(f"{record_key(run_id)} in {store.url} is damaged: it is no record of a run. Restore it from a "
                    "backup, or begin a new run under another --run: what this one made is reused.")


def training_machine(record: Record) -> dict[str, Any]:
    """Where and with what the run's model was trained, as ``machine`` described it; empty where that is not known."""
    stages = record["stages"]
    found = (stages.get("fine_tune") or stages.get("train_head") or {}).get("machine")
    return found if isinstance(found, dict) else {}


def _is_record(record: Any) -> bool:
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        return False
    told = (record.get("stages"), record.get("attempts", {}))
    return all(isinstance(of, dict) and all(isinstance(one, dict) for one in of.values()) for of in told)


def run_id_from_dag_run(dag_run_id: str) -> str:
    """The run's id in the store of a run of the DAG: Airflow's, with other characters replaced."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", dag_run_id)
