"""A person's agreement before a promotion, where gate.approval asks for it."""

import logging
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import get_current_context, task, task_group
from airflow.sdk.configuration import conf

from carclf_airflow.pods import gpu_task_options
from carclf_airflow.stage_process import run_stage, skip_tasks

log = logging.getLogger("airflow.task")

HOURS = float(os.environ.get("CARCLF_APPROVAL_TIMEOUT_HOURS") or "24")
TASKS = ["approval.ask", "approval.promote"]
BODY = """\
{% set judged = ti.xcom_pull(task_ids='promote')['metrics'] -%}
{% set measured = ti.xcom_pull(task_ids='evaluate')['metrics'] -%}
{{ judged['reason'].partition('. To go on: ')[0] }}

| figure | |
|---|---|
| validation accuracy | {{ '%.4f' | format(measured['val_accuracy']) }} (95%: \
{{ '%.4f' | format(measured['low']) }} to {{ '%.4f' | format(measured['high']) }}, \
{{ measured['num_images'] }} images) |
| weakest class | {{ measured['weakest_class'] }}, recall {{ '%.4f' | format(measured['weakest_recall']) }} |
| calibration error | {{ '%.4f' | format(measured['calibration_error']) }} |
| stored threshold | {{ '%.4f' | format(judged['threshold']) }} |
| champion | {{ judged.get('champion') or 'none yet' }} |
{% for name, value in judged.items()
   if name not in ('reason', 'decision', 'threshold', 'val_accuracy', 'champion', 'report') -%}
| {{ name | replace('_', ' ') }} | {{ '%.4g' | format(value) if value is float else value }} |
{% endfor %}
[The run's report]({{ var_base }}/dags/car_retrain/runs/{{ run_id | urlencode }}/plugin/car-classifier-report) has the \
gate's rules, and the errors with their pictures. In the store, {{ var_store }}:
{% for place in (judged.get('report'), measured.get('report')) if place %}
- `{{ place }}`
{% endfor %}
**Approve** promotes the model and submits its predictions. **Reject**, or no answer in {{ var_hours }} hours, does
neither.
"""


@task_group(group_id="approval")
def approval_tasks() -> None:
    """``ask`` waits without a slot; ``promote`` makes the promotion that was agreed to."""
    ask = ApprovalOperator(
        task_id="ask", subject="Promote the model of {{ run_id }}, and submit its predictions?",
        body=_body(),
        defaults=ApprovalOperator.REJECT, response_timeout=timedelta(hours=HOURS),
        execution_timeout=timedelta(minutes=10), ignore_downstream_trigger_rules=True, on_success_callback=_tell,
    )

    @task(task_id="promote", execution_timeout=timedelta(hours=1), **gpu_task_options("promote"))
    def promote() -> dict[str, Any]:
        context = get_current_context()
        user = context["ti"].xcom_pull(task_ids="approval.ask")["responded_by_user"]
        return run_stage("promote", context, "--approved-by", user["name"])

    ask >> promote()


def _body() -> str:
    """The question's text with what is known when the DAG is read; Airflow renders the rest."""
    known = {"store": os.environ.get("CARCLF_STORE", "store"), "hours": f"{HOURS:g}",
             "base": urlsplit(conf.get("api", "base_url", fallback="") or "").path.rstrip("/")}
    text = BODY
    for name, value in known.items():
        text = text.replace(f"{{{{ var_{name} }}}}", value)
    return text


def promote_or_request_approval(context: Mapping[str, Any]) -> dict[str, Any]:
    """Run promote; where nobody need approve, what would ask is skipped."""
    result = run_stage("promote", context)
    if not result["waiting"]:
        skip_tasks(context, TASKS, result)
    return result


def _tell(context: Mapping[str, Any]) -> None:
    """Say who answered what, in the task's log and for the notification: a rejection leaves no result of its own."""
    summary = context["task"].hitl_summary
    user = summary["responded_by_user"]
    who = f"by {user['name']}" if user else f"because nobody answered within {HOURS:g} hours"
    text = f"approved {who}" if summary["approved"] else f"rejected {who}: nothing is promoted or submitted"
    log.info(text)
    context["ti"].xcom_push(key="answer", value=text)
