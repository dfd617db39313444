"""Find runs whose process was killed: their record still has the state running, but the heartbeats have stopped.

``stage_facts.py`` decides the state of a single stage.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial

from carclf.dashboard.run_reader import MALFORMED_DATA_ERRORS, open_run
from carclf.dashboard.stage_facts import stage_state
from carclf.errors import CarclfError
from carclf.runs.index import NUM_READERS, Row
from carclf.runs.live import STALE_SECONDS, read_live_progress
from carclf.services.storage import Store

MAX_CHECKED = 16  # only the newest runs of a list: each check reads from the store


def mark_stale_runs(store: Store, rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the index, newest first, with the state "stale" for runs that were probably killed."""
    candidates = [row for row in rows if row["state"] == "running" and _is_old(row["updated"])][:MAX_CHECKED]
    with ThreadPoolExecutor(NUM_READERS) as pool:
        is_stale = list(pool.map(partial(_is_stale, store), candidates))
    stale_runs = {row["run"] for row, stale in zip(candidates, is_stale, strict=True) if stale}
    return [row | {"state": "stale"} if row["run"] in stale_runs else row for row in rows]


def _is_old(updated: str) -> bool:
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(updated)).total_seconds() > STALE_SECONDS
    except (ValueError, TypeError):
        return False


def _is_stale(store: Store, row: Row) -> bool:
    stage = row["stage"]
    try:
        reader = open_run(store, row["run"])
        live = read_live_progress(store, row["run"]).get(stage)
        return stage_state(reader.result(stage), reader.attempt(stage), live) == "stale"
    except (CarclfError, *MALFORMED_DATA_ERRORS):
        return False
