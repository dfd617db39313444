"""Which runs that say they run are heard of no more: a killed process cannot note its end."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial

from carclf.dashboard.run_sources import OF_OTHER_SHAPE, source
from carclf.dashboard.stage_facts import state_of
from carclf.errors import CarclfError
from carclf.runs.index import NUM_READERS, Row
from carclf.runs.live import SILENT_SECONDS, live_points
from carclf.services.storage import Store

MAX_ASKED = 16  # runs of which one list asks the store: the newest


def heard(store: Store, rows: Sequence[Row]) -> list[Row]:
    """The rows of ``run_index.rows``, with the state that a run's own page shows: running, or silent."""
    doubted = [row for row in rows if row["state"] == "running" and _is_old(row["updated"])][:MAX_ASKED]
    with ThreadPoolExecutor(NUM_READERS) as pool:
        gone = list(pool.map(partial(_is_silent, store), doubted))
    silent = {row["run"] for row, is_gone in zip(doubted, gone, strict=True) if is_gone}
    return [row | {"state": "silent"} if row["run"] in silent else row for row in rows]


def _is_old(updated: str) -> bool:
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(updated)).total_seconds() > SILENT_SECONDS
    except (ValueError, TypeError):  # of another version
        return False


def _is_silent(store: Store, row: Row) -> bool:
    stage = row["stage"]
    try:
        own = source(store, row["run"])
        live = live_points(store, row["run"]).get(stage)
        return state_of(own.result(stage), own.attempt(stage), live) == "silent"
    except (CarclfError, *OF_OTHER_SHAPE):
        return False
