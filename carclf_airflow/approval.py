"""Approval of a promotion by a person, if gate.approval is "required".

car_retrain requests it and ends; car_promote asks the question and acts on the response.
"""

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlsplit

from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLOperator
from airflow.sdk import Param, get_current_context, task
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException

from carclf.champion_history import MAX_NOTE_CHARS
from carclf.formatting import format_value, truncate
from carclf.metrics import METRICS
from carclf.runs.record import run_id_from_dag_run
from carclf.stages.chain import STAGES
from carclf_airflow.assets import CANDIDATE
from carclf_airflow.events import METRICS as METRIC_FIELDS
from carclf_airflow.events import candidate_event
from carclf_airflow.ids import CANDIDATE_GROUP, CANDIDATES_TASK, METRICS_KEY, REQUEST_TASK, approval_subject
from carclf_airflow.pods import gpu_task_options
from carclf_airflow.stage_process import child_environment, run_for_result, run_stage, skip_tasks

TIMEOUT_HOURS = float(os.environ.get("CARCLF_APPROVAL_TIMEOUT_HOURS") or "24")
MARKDOWN = "\\|<[`"  # what starts a cell, HTML, a link or code in names of classes
AFTER_PROMOTE = list(STAGES)[list(STAGES).index("promote") + 1 :]
# Metrics of the decision that the question shows by other names, or not at all.
NAMED_METRICS = ("reason", "decision", "decision_key", "threshold", "val_accuracy", "metric", "val_metric", "champion",
                 "report", "p_value")


def promote_or_wait(context: Mapping[str, Any]) -> dict[str, Any]:
    """Run promote. If it waits for approval, request that and skip the other stages; otherwise skip the request."""
    result = run_stage("promote", context)
    skip_tasks(context, AFTER_PROMOTE if result["waiting"] else [REQUEST_TASK, *result["omitted"]], result)
    return result


@task(  # type: ignore[untyped-decorator]  # Airflow is not type-checked here
    task_id=REQUEST_TASK, execution_timeout=timedelta(minutes=10), outlets=[CANDIDATE])
def request_approval() -> None:
    """Emit the event of the candidate, which starts car_promote."""
    context = get_current_context()
    stages = ("fine_tune", "evaluate", "promote")
    trained, evaluated, promoted = (context["ti"].xcom_pull(task_ids=name) for name in stages)
    run, store = run_id_from_dag_run(context["run_id"]), os.environ.get("CARCLF_STORE", "store")
    context["outlet_events"][CANDIDATE].extra = candidate_event(run, trained, evaluated, promoted, store)


@task(  # type: ignore[untyped-decorator]  # as above
    task_id=CANDIDATES_TASK, execution_timeout=timedelta(minutes=10))
def waiting_candidates() -> list[dict[str, str]]:
    """Return the questions about the candidates that wait for approval, unless another DAG run asks them.

    The store lists the candidates, and the asset's events only start the DAG: Airflow can drop an event that arrives
    before it has created the run for another one (decision 28).
    """
    # After these hours, the DAG run that asked has ended without a response, or was deleted.
    context = get_current_context()
    claim = ["--claim", context["run_id"], f"--claim-hours={TIMEOUT_HOURS + 1:g}"]
    candidates = run_for_result("champion candidates", claim, child_environment(CANDIDATES_TASK))
    metrics = [{name: candidate["evaluation"].get(name) for name in METRIC_FIELDS} for candidate in candidates]
    context["ti"].xcom_push(key=METRICS_KEY, value=metrics)  # for the notifications
    return [question(candidate) for candidate in candidates]


class ApprovalQuestion(HITLOperator):  # type: ignore[misc]  # Airflow is not type-checked here
    """A question whose response is kept, whatever its note: Airflow's API does not check the fields of the form.

    HITLOperator would fail on a longer note or another field, and the person's decision would be lost.
    """

    def execute_complete(self, context: Mapping[str, Any], event: dict[str, Any]) -> Any:
        """Return the response with its note shortened, as text, and without other fields."""
        note = (event.get("params_input") or {}).get("note")
        shortened = truncate("" if note is None else str(note), MAX_NOTE_CHARS)
        return super().execute_complete(context, event | {"params_input": {"note": shortened}})


def ask(subject: Any, body: Any) -> HITLOperator:
    """Add the task that asks the question and waits for the response without occupying a slot."""
    note = Param(None, type=["string", "null"], maxLength=MAX_NOTE_CHARS, title="Note",
                 description="For the champion's history.")
    return ApprovalQuestion(
        task_id="ask", subject=subject, body=body, options=[ApprovalOperator.APPROVE, ApprovalOperator.REJECT],
        defaults=ApprovalOperator.REJECT, params={"note": note}, response_timeout=timedelta(hours=TIMEOUT_HOURS),
        execution_timeout=timedelta(minutes=10),
    )


@task(  # type: ignore[untyped-decorator]  # as above
    task_id="promote", execution_timeout=timedelta(hours=6), **gpu_task_options("promote"))
def act_on_response(run: str, decision: str, response: dict[str, Any] | None) -> dict[str, Any]:
    """Promote an approved candidate if it passes the gate against the present champion; record any other response."""
    context = get_current_context()
    if response is None:  # its state was set by hand
        raise AirflowFailException("The task ask has ended without a response. Clear it to ask again.")
    result = run_stage("promote", context, *response_options(response), f"--shown={decision}", run=run)
    if result["omitted"]:
        skip_tasks(context, [f"{CANDIDATE_GROUP}.{name}" for name in result["omitted"]], result)
    return result


def response_options(response: Mapping[str, Any]) -> list[str]:
    """Return the options of ``carclf promote`` for a response. Without a user, nobody responded in time."""
    if (user := response["responded_by_user"]) is None:
        return ["--expired", f"--note=no response within {TIMEOUT_HOURS:g} hours"]
    is_approved = response["chosen_options"] == [ApprovalOperator.APPROVE]
    note = (response["params_input"] or {}).get("note") or ""
    return [f"--{'approved' if is_approved else 'declined'}-by={user['name']}", f"--note={note}"]


def question(candidate: Mapping[str, Any]) -> dict[str, str]:
    """Return the arguments of the task group for a candidate: run, key of the decision, subject and body (Markdown)."""
    run, metrics = candidate["run"], candidate["metrics"]
    base = urlsplit(conf.get("api", "base_url", fallback="") or "").path.rstrip("/")
    lines = [
        _plain(metrics["reason"]), "", "| metric | |", "|---|---|",
        *(f"| {name} | {text} |" for name, text in _rows(metrics, candidate["evaluation"])), "",
        f"[The approval page]({base}/plugin/car-classifier/carclf/runs/{quote(run)}/approval) compares the model with "
        "the champion of now: classes, images, data and settings. You can also respond there.", "",
        "**Approve** compares the model with the champion again, promotes it if it still passes the gate, and submits "
        f"its predictions. **Reject**, or no response within {TIMEOUT_HOURS:g} hours, does neither. A rejected model "
        "can only be promoted with `carclf champion promote --override`.",
    ]
    return {"run": run, "decision": metrics.get("decision_key", ""), "body": "\n".join(lines),
            "subject": approval_subject(run)}


def _rows(metrics: Mapping[str, Any], evaluation: Mapping[str, Any]) -> list[tuple[str, str]]:
    metric = METRICS[evaluation.get("metric", "accuracy")]
    measured = [] if metric.is_accuracy else [(f"validation {metric.label}", _interval(evaluation, "val_metric"))]
    weakest = f"{_plain(evaluation.get('weakest_class'))}, recall {_four_decimals(evaluation, 'weakest_recall')}"
    others = {name: value for name, value in metrics.items() if name not in NAMED_METRICS}
    return [
        *measured,
        ("validation accuracy", _interval(evaluation, "val_accuracy")),
        ("weakest class", weakest),
        ("calibration error", _four_decimals(evaluation, "calibration_error")),
        ("stored threshold", _four_decimals(metrics, "threshold")),
        ("champion", metrics.get("champion") or "none yet"),
        *((name.replace("_", " "), _plain(format_value(value))) for name, value in others.items()),
    ]


def _interval(evaluation: Mapping[str, Any], name: str) -> str:
    value, low, high = (_four_decimals(evaluation, f"{name}{bound}") for bound in ("", "_low", "_high"))
    return f"{value} (95%: {low} to {high}, {evaluation.get('num_images')} images)"


def _four_decimals(metrics: Mapping[str, Any], name: str) -> str:
    value = metrics.get(name)
    return "unknown" if value is None else f"{value:.4f}"


def _plain(text: object) -> str:
    escaped = str(text).replace("\n", " ")
    for mark in MARKDOWN:
        escaped = escaped.replace(mark, f"\\{mark}")
    return escaped
