"""The report of a run as one HTML file without scripts or network access, for mails and archives."""

import json
import time
from functools import lru_cache

from carclf.champion import CHAMPION
from carclf.dashboard.run_facts import run_facts
from carclf.dashboard.run_view import run_view
from carclf.dashboard.templates import render_self_contained
from carclf.errors import CarclfError, ServiceError
from carclf.progress import log
from carclf.runs.live import read_live_progress
from carclf.runs.record import record_key
from carclf.runs.run import Result, Run
from carclf.services.storage import Store, format_command
from carclf.stages.chain import NO_OPTIONS, StageOptions

LATE_STAGES = ("evaluate", "promote", "refit", "submit", "score")  # the report is written after these
POLLED_STAGES = ("submit", "score")  # nothing changes in the report while these wait


def run_report(store: Store, run_id: str) -> str:
    """Return the report of a run, which may still be active; ConfigError if it does not exist."""
    return render_self_contained("run.html", can_start=False, **run_view(run_facts(store, run_id)))


def current_report(store: Store, run_id: str) -> str:
    """Return ``run_report``, which is computed only if the run or the champion has changed since the last call."""
    record, champion = (store.read(key) for key in (record_key(run_id), CHAMPION))
    live = read_live_progress(store, run_id)
    if record is None or any(progress["state"] == "running" for progress in live.values()):
        return run_report(store, run_id)
    version = f"{record.version} {champion and champion.version} {json.dumps(live)}"
    return _cached_report(store, run_id, version)  # type: ignore[arg-type]  # stores are hashed by identity


@lru_cache(maxsize=8)
def _cached_report(store: Store, run_id: str, version: str) -> str:
    return run_report(store, run_id)


def report_key(run_id: str) -> str:
    """Return the key of a run's report in the store."""
    return f"reports/{run_id}.html"


def run_stage_with_report(run: Run, stage: str, options: StageOptions = NO_OPTIONS) -> Result:
    """Run a stage and, after a late stage, write the run's report."""
    result = run.run_stage(stage, options)
    if stage in LATE_STAGES and not (result.waiting and stage in POLLED_STAGES):
        write_report(run)
    return result


def run_stage_to_end(run: Run, stage: str) -> Result:
    """Run a stage; repeat it while it waits for a service, for at most ``score.timeout_seconds``.

    Raise ServiceError after that. A result that waits for another day or for a person is returned.
    """
    settings = run.config.score
    limit = time.monotonic() + settings.timeout_seconds
    while (result := run_stage_with_report(run, stage)).waiting:
        if result.until or stage == "promote":
            return result
        if time.monotonic() > limit:
            command = format_command(run.store, f"{stage} --run {run.run_id}")
            raise ServiceError(f"{result.summary} after {settings.timeout_seconds} s. Try again: {command}")
        time.sleep(settings.poll_seconds)
    return result


def write_report(run: Run) -> None:
    """Write the run's report to the store. If that fails, only a warning is logged."""
    try:
        page = run_report(run.store, run.run_id)
        run.store.write(report_key(run.run_id), page.encode(errors="backslashreplace"))
    except (CarclfError, OSError, ValueError) as error:
        log.warning("report: not written run=%s error=%s", run.run_id, error)
