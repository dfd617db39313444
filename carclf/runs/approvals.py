"""Candidates that wait for a person's approval, and the responses that promote nothing."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from carclf.artifacts import Decision, Metrics, Model
from carclf.champion import read_state, record_response
from carclf.champion_history import Event, describe_response, promotion_of_model
from carclf.errors import ConfigError
from carclf.progress import log
from carclf.runs.index import list_runs
from carclf.runs.record import CLAIM_FIELDS, Attempt, Record, change_record, read_record
from carclf.runs.run import Result, Run
from carclf.services.storage import Store

STAGE = "promote"
WAITING = "waiting"
DECLINED, EXPIRED = "declined", "expired"


@dataclass(frozen=True)
class Claimant:
    """Who asks a person for approvals, and the hours after which the claims of others do not count any more."""

    name: str
    hours: float


def waiting_candidates(store: Store, claimant: Claimant | None = None) -> list[dict[str, Any]]:
    """Return the candidates that wait for approval, oldest first: run, model, metrics of the decision, evaluation.

    With a ``claimant``, the candidates that no other claimant got in the last hours. One that asks again gets the same
    candidates.
    """
    rows = [row for row in list_runs(store) if row["state"] == WAITING and row["stage"] == STAGE]
    records = [record for row in reversed(rows) if (record := _claim(store, row["run"], claimant))]
    return [
        {"run": record["run"], "model": record["stages"]["fine_tune"]["key"],
         "metrics": record["attempts"][STAGE]["metrics"], "evaluation": record["stages"]["evaluate"].get("metrics", {})}
        for record in records
        if _is_waiting(record) and (not claimant or record["attempts"][STAGE]["claimed_by"] == claimant.name)
    ]


def _claim(store: Store, run_id: str, claimant: Claimant | None) -> Record | None:
    """Return a run's record after claiming its candidate, unless another claims it or there is no claimant."""
    record = read_record(store, run_id)
    if record is None or claimant is None:
        return record
    now = datetime.now(UTC)

    def claim(record: Record) -> Record:
        if not _is_waiting(record) or _is_claimed(record["attempts"][STAGE], claimant, now):
            return record
        claimed: Any = {"claimed_by": claimant.name, "claimed_at": now.isoformat(timespec="seconds")}
        return _with_attempt(record, {**record["attempts"][STAGE], **claimed})

    return change_record(store, run_id, claim)


def _is_claimed(attempt: Attempt, claimant: Claimant, now: datetime) -> bool:
    """Return whether another claimant asks; a claim ends if its DAG run did not live to act on the response."""
    if attempt.get("claimed_by", claimant.name) == claimant.name:
        return False
    since = attempt.get("claimed_at")
    return since is not None and now - datetime.fromisoformat(since) < timedelta(hours=claimant.hours)


def release_claim(store: Store, run_id: str) -> None:
    """Let another claimant ask for the approval of a run: the response could not be acted on."""

    def release(record: Record) -> Record:
        attempt: Any = {name: value for name, value in record["attempts"].get(STAGE, {}).items()
                        if name not in CLAIM_FIELDS}
        return _with_attempt(record, attempt) if _is_waiting(record) else record

    change_record(store, run_id, release)


def _with_attempt(record: Record, attempt: Attempt) -> Record:
    return {**record, "attempts": {**record["attempts"], STAGE: attempt}}


def _is_waiting(record: Record) -> bool:
    return record["attempts"].get(STAGE, {}).get("state") == WAITING


def shown_decision(run: Run) -> str:
    """Return the key of the decision that the run shows while it waits for approval, or ""."""
    return str(run.record["attempts"].get(STAGE, {}).get("metrics", {}).get("decision_key", ""))


def end_request(
    run: Run, action: Literal["declined", "expired"], *, by: str = "", note: str = "", shown: str = ""
) -> Result:
    """Record in the champion's history and in the run that a person declined the candidate, or that nobody responded.

    ``shown`` is the key of the decision that the person saw, by default the run's. Repeating it changes nothing. If the
    run has been decided meanwhile, in a terminal, that stays as it is, but a rejection is recorded in the history
    unless the model was promoted. Raise ConfigError if the run has not asked for approval.
    """
    attempt, ended = run.record["attempts"].get(STAGE, {}), run.record["stages"].get(STAGE)
    if attempt.get("state") not in (WAITING, DECLINED, EXPIRED):
        if ended is None:
            raise ConfigError(f"The run {run.run_id!r} does not wait for approval, so it cannot be {action}.")
        if action == DECLINED:
            _record_response(run, _response_event(run, action, by, note, shown))
        return _decided_before(ended["key"], str(ended["metrics"].get("reason", "")), ended["metrics"])
    if action == EXPIRED and attempt["state"] == DECLINED:
        return _decided_before(shown_decision(run), attempt["text"], attempt["metrics"])
    event = _response_event(run, action, by, note, shown or shown_decision(run))
    text = _record_response(run, event)
    metrics = {**attempt["metrics"], "decision": action}
    run.end_attempt(STAGE, action, text, metrics)
    return Result(STAGE, event.get("shown_decision", ""), False, 0.0, metrics, text, skip_reason=text)


def _decided_before(key: str, reason: str, metrics: Metrics) -> Result:
    text = f"already decided: {reason}"
    log.info("promote: %s", text)
    return Result(STAGE, key, False, 0.0, metrics, text, skip_reason=text)


def _response_event(run: Run, action: str, by: str, note: str, shown: str) -> Event:
    model = run.artifact(Model, "fine_tune").key
    fields = {"action": action, "model": model, "run": run.run_id, "by": by, "note": note, "shown_decision": shown}
    event: Event = {name: value for name, value in fields.items() if value}
    if shown and (decision := Decision.find(run.store, shown)):
        event["shown_champion"] = decision.metrics.get("champion")
    return event


def _record_response(run: Run, event: Event) -> str:
    """Record a response unless the model was promoted meanwhile; return the response as text."""
    text = describe_response(event)
    if promotion_of_model(read_state(run.store) or {"history": []}, event["model"]):
        text = f"{text}, but its model was promoted before"
        log.warning("promote: run=%s %s", run.run_id, text)
    else:
        record_response(run.store, event)
    return text
