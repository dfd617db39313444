"""Report a run of car_retrain without a decision at a given age (CARCLF_DEADLINE_HOURS).

The scheduler detects a missed deadline; the callback runs in the triggerer, so that it does not wait for a worker's
slot, which the late run may occupy.
"""

import asyncio
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from airflow.sdk import AsyncCallback, DeadlineAlert, DeadlineReference  # type: ignore[attr-defined]  # not in its stub
from airflow.sdk.configuration import conf

from carclf.errors import CarclfError
from carclf.redaction import redact
from carclf.runs.record import Record, read_record, run_id_from_dag_run
from carclf.services.storage import require_store
from carclf_airflow.notifications import send_notice

UNFINISHED = ("running", "waiting", "failed")  # states of an attempt


def decision_deadline() -> DeadlineAlert | None:
    """Return the deadline of a run: CARCLF_DEADLINE_HOURS after it was queued; None if that or the URL is not set.

    Raises:
        ValueError: CARCLF_DEADLINE_HOURS is not a positive number.
    """
    text = os.environ.get("CARCLF_DEADLINE_HOURS", "").strip()
    if not text or not os.environ.get("CARCLF_NOTIFICATION_URL"):
        return None
    try:
        interval = timedelta(hours=float(text))
    except (ValueError, OverflowError):  # OverflowError: inf
        interval = timedelta()
    if interval <= timedelta():
        raise ValueError(f"Invalid CARCLF_DEADLINE_HOURS {text!r}: expected a positive number of hours.")
    callback = AsyncCallback(report_missed_deadline, {"hours": float(text)})
    return DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, interval, callback)


async def report_missed_deadline(hours: float, context: Mapping[str, Any]) -> None:
    """Notify CARCLF_NOTIFICATION_URL of a late run, unless its model has been promoted or rejected: it then submits."""
    run = context["dag_run"]
    reason = await asyncio.to_thread(describe_delay, run["dag_run_id"], hours)
    if not reason:
        return
    dag_id, run_id = run["dag_id"], run["dag_run_id"]
    url = f"{conf.get('api', 'base_url', fallback='').rstrip('/')}/dags/{dag_id}/runs/{quote(run_id)}"
    await send_notice({"text": f"{dag_id} {run_id}: late: {reason} {url}", "dag_id": dag_id, "run_id": run_id,
                       "state": run["state"], "outcome": "late", "reason": reason, "metrics": {}, "url": url})


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
