"""Names of runs that a person gives: an id, ``last``, ``champion``, or the first characters of an id."""

import os
from difflib import get_close_matches

from carclf.errors import ConfigError
from carclf.formatting import format_list
from carclf.progress import TASK_LOG_VARIABLE
from carclf.runs.index import list_runs
from carclf.runs.record import missing_run_error, record_key
from carclf.runs.run import Run
from carclf.services.storage import Store

LAST, CHAMPION = "last", "champion"


def load_run(name: str, store: Store) -> Run:
    """Return the run with this name; raise NotFoundError if there is none, ConfigError if several match."""
    return Run.load(find_run_id(name, store), store)


def find_run_id(name: str, store: Store) -> str:
    """Return the id of the run with this name; an id takes precedence over the other names.

    In an Airflow task, a name is an id: a task must not continue another run if the record of its own is missing. Raise
    NotFoundError if no run matches, ConfigError if several match or if the name is invalid.
    """
    if store.read(record_key(name)) is not None or TASK_LOG_VARIABLE in os.environ:
        return name
    rows = list_runs(store)
    run_ids = [row["run"] for row in rows]
    champion = [row["run"] for row in rows if row["champion"]]
    named = {LAST: run_ids[:1], CHAMPION: champion}.get(name)
    matches = [run_id for run_id in run_ids if run_id.startswith(name)] if named is None else named
    if len(matches) > 1:
        raise ConfigError(f"{name!r} is ambiguous: it names {format_list(matches)}. Use a longer prefix.")
    if matches:
        return str(matches[0])
    similar = get_close_matches(name, [*run_ids, LAST, CHAMPION], n=1)
    hint = f"Did you mean {similar[0]}? " if similar else ""
    raise missing_run_error(store, name, hint)
