"""Which runs that say they run are heard of no more: a killed process cannot note its end."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial

from carclf.dashboard.run_sources import MALFORMED_DATA_ERRORS, open_run
from carclf.dashboard.stage_facts import stage_state
from carclf.errors import CarclfError
from carclf.runs.index import NUM_READERS, Row
from carclf.runs.live import STALE_SECONDS, read_live_progress
from carclf.services.storage import Store

MAX_ASKED = 16  # runs of which one list asks the store: the newest


def mark_stale_runs(store: Store, rows: Sequence[Row]) -> list[Row]:
    """The rows of ``run_index.rows``, with the state that a run's own page shows: running, or silent."""
    doubted = [row for row in rows if row["state"] == "running" and _is_old(row["updated"])][:MAX_ASKED]
    with ThreadPoolExecutor(NUM_READERS) as pool:
        gone = list(pool.map(partial(_is_silent, store), doubted))
    silent = {row["run"] for row, is_gone in zip(doubted, gone, strict=True) if is_gone}
    return [row | {"state": "stale"} if row["run"] in silent else row for row in rows]


def _is_old(updated: str) -> bool:
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(updated)).total_seconds() > STALE_SECONDS
    except (ValueError, TypeError):  # of another version
        return False


def _is_silent(store: Store, row: Row) -> bool:
    stage = row["stage"]
    try:
        own = open_run(store, row["run"])
        live = read_live_progress(store, row["run"]).get(stage)
        return stage_state(own.result(stage), own.attempt(stage), live) == "stale"
    except (CarclfError, *MALFORMED_DATA_ERRORS):
        return False
