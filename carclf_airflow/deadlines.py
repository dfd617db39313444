"""Report late decisions: of a run of car_retrain (CARCLF_DEADLINE_HOURS), of a person (CARCLF_APPROVAL_REMINDER_HOURS).

The scheduler detects a missed deadline; the callback runs in the triggerer, so that it does not wait for a worker's
slot, which the late run may occupy.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from math import inf
from typing import Any
from urllib.parse import quote

from airflow.sdk import AsyncCallback, DeadlineAlert, DeadlineReference  # type: ignore[attr-defined]  # not in its stub
from airflow.sdk.configuration import conf

from carclf.errors import CarclfError
from carclf.redaction import redact
from carclf.runs.approvals import waiting_candidates
from carclf.runs.record import Record, read_record, run_id_from_dag_run
from carclf.services.storage import require_store
from carclf_airflow.approval import TIMEOUT_HOURS
from carclf_airflow.notifications import send_notice

UNFINISHED = ("running", "waiting", "failed")  # states of an attempt


def decision_deadline() -> DeadlineAlert | None:
    """Return the deadline of a run: CARCLF_DEADLINE_HOURS after it was queued; None if that or the URL is not set.

    Raises:
        ValueError: CARCLF_DEADLINE_HOURS is not a positive number.
    """
    return _deadline("CARCLF_DEADLINE_HOURS", report_missed_deadline, inf)


def approval_reminder() -> DeadlineAlert | None:
    """Return when a run of car_promote reminds of its questions: CARCLF_APPROVAL_REMINDER_HOURS after it was queued.

    Return None if that or the URL is not set.

    Raises:
        ValueError: CARCLF_APPROVAL_REMINDER_HOURS is not a positive number, or the questions have expired by then.
    """
    return _deadline("CARCLF_APPROVAL_REMINDER_HOURS", remind_of_approval, TIMEOUT_HOURS)


def _deadline(variable: str, callback: Callable[..., Any], limit: float) -> DeadlineAlert | None:
    text = os.environ.get(variable, "").strip()
    if not text or not os.environ.get("CARCLF_NOTIFICATION_URL"):
        return None
    try:
        interval = timedelta(hours=float(text))
    except (ValueError, OverflowError):  # OverflowError: inf
        interval = timedelta()
    if not timedelta() < interval or float(text) >= limit:
        less = "" if limit == inf else f", less than CARCLF_APPROVAL_TIMEOUT_HOURS ({limit:g})"
        raise ValueError(f"Invalid {variable} {text!r}: expected a positive number of hours{less}.")
    return DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, interval, AsyncCallback(callback, {"hours": float(text)}))


async def report_missed_deadline(hours: float, context: Mapping[str, Any]) -> None:
    """Notify CARCLF_NOTIFICATION_URL of a late run, unless its model has been promoted or rejected: it then submits."""
    run = context["dag_run"]
    if reason := await asyncio.to_thread(describe_delay, run["dag_run_id"], hours):
        await _send(run, run["dag_run_id"], "late", reason)


async def remind_of_approval(hours: float, context: Mapping[str, Any]) -> None:
    """Notify CARCLF_NOTIFICATION_URL of each candidate that a run of car_promote still asks about."""
    run = context["dag_run"]
    reason = f"no decision for {hours:g} hours; without a response, the question expires after {TIMEOUT_HOURS:g} hours"
    is_asking = run["state"] == "running"
    for candidate in await asyncio.to_thread(asked_candidates, run["dag_run_id"]) if is_asking else []:
        await _send(run, candidate, "waiting", reason)


async def _send(run: Mapping[str, Any], run_id: str, outcome: str, reason: str) -> None:
    dag_id = run["dag_id"]
    url = f"{conf.get('api', 'base_url', fallback='').rstrip('/')}/dags/{dag_id}/runs/{quote(run['dag_run_id'])}"
    await send_notice({"text": f"{dag_id} {run_id}: {outcome}: {reason} {url}", "dag_id": dag_id, "run_id": run_id,
                       "state": run["state"], "outcome": outcome, "reason": reason, "metrics": {}, "url": url})


def asked_candidates(dag_run_id: str) -> list[str]:
    """Return the ids of the runs whose candidates wait, and about which this DAG run asks."""
    store = require_store(os.environ.get("CARCLF_STORE", "store"))
    records = [read_record(store, candidate["run"]) for candidate in waiting_candidates(store)]
    return [record["run"] for record in records
            if record and record["attempts"]["promote"].get("claimed_by") == dag_run_id]


def describe_delay(dag_run_id: str, hours: float) -> str:
    """Return why a run is late, or "" if it has a decision. A store that cannot be read is part of the reason."""
    reason = f"no decision {hours:g} hours after the run was queued"
    try:
        record = read_record(require_store(os.environ.get("CARCLF_STORE", "store")), run_id_from_dag_run(dag_run_id))
    except CarclfError as error:
        return f"{reason}; its record cannot be read: {redact(str(error))}"
    if record is None:
        return f"{reason}; it has not started"
    if "promote" in record["stages"]:
        return ""
    return "; ".join([reason, *_unfinished_stages(record)])


def _unfinished_stages(record: Record) -> list[str]:
    return [f"{stage} is {attempt['state']} since {attempt['since'][:16].replace('T', ' ')} UTC"
            for stage, attempt in record["attempts"].items() if attempt.get("state") in UNFINISHED]
