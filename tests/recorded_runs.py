"""Runs whose record has the results and attempts that a test asks for."""

from pathlib import Path
from typing import Any

from gate_candidates import Candidate

from carclf.config import load_config
from carclf.runs.index import update_index
from carclf.runs.record import Record, change_record
from carclf.runs.run import Result, Run
from carclf.services.storage import Store


def record_candidate(store: Store, run_id: str, candidate: Candidate, **settings: object) -> Run:
    """Record a run that has evaluated the candidate."""
    config = load_config("demo", settings) if settings else candidate.config
    run = Run.start_or_resume(run_id, store, "demo", config)
    for stage, artifact in (
        ("download", candidate.archive),
        ("split", candidate.split),
        ("fine_tune", candidate.model),
        ("evaluate", candidate.evaluation),
    ):
        run.record_result(Result(stage, artifact.key, False, 1.0, artifact.metrics, ""))
    return run


def record_attempt(run: Run, stage: str, state: str, *, since: str = "", **fields: Any) -> None:
    """Record an attempt at a stage, as the process that runs it does."""
    since = since or run.record["created"]
    attempt: Any = {"stage": stage, "since": since, "state": state} | fields

    def with_attempt(record: Record) -> Record:
        return {**record, "attempts": {**record["attempts"], stage: attempt}, "updated": since}

    change_record(run.store, run.run_id, with_attempt)
    update_index(run.store, run.run_id)


def damage(store: Store, key: str, content: bytes | None) -> None:
    """Overwrite a file of a store in a folder, or remove it if the content is None."""
    path = Path(store.url, key)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
