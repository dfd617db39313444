"""Approval of a promotion by a person, if gate.approval is "required"."""

import logging
import os
from collections.abc import Mapping
from datetime import timedelta
from string import Template
from typing import Any
from urllib.parse import urlsplit

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import get_current_context, task, task_group
from airflow.sdk.configuration import conf

from carclf.metrics import METRICS
from carclf.runs.record import run_id_from_dag_run
from carclf_airflow.ids import ASK_TASK, PROMOTE_TASK
from carclf_airflow.pods import gpu_task_options
from carclf_airflow.stage_process import child_environment, run_command, run_stage, skip_tasks

log = logging.getLogger("airflow.task")

TIMEOUT_HOURS = float(os.environ.get("CARCLF_APPROVAL_TIMEOUT_HOURS") or "24")
MARKDOWN = "\\|<[`"  # what starts a cell, HTML, a link or code in names of classes
# Jinja for Airflow, which fills in the run; $names are filled in when the DAG is parsed.
BODY = Template("""\
{% macro plain(text) -%}
{{ text | string | replace('\\n', ' ')$escapes }}
{%- endmacro -%}
{% set gate = ti.xcom_pull(task_ids='promote')['metrics'] -%}
{% set evaluation = ti.xcom_pull(task_ids='evaluate')['metrics'] -%}
{% macro row(label, name) -%}
| validation {{ label }} | {{ '%.4f' | format(evaluation[name]) }} \
(95%: {{ '%.4f' | format(evaluation[name ~ '_low']) }} to {{ '%.4f' | format(evaluation[name ~ '_high']) }}, \
{{ evaluation['num_images'] }} images) |
{% endmacro -%}
{{ plain(gate['reason']) }}

| metric | |
|---|---|
{% if evaluation['metric'] != 'accuracy' -%}
{{ row($labels[evaluation['metric']], 'val_metric') -}}
{% endif -%}
{{ row('accuracy', 'val_accuracy') -}}
| weakest class | {{ plain(evaluation['weakest_class']) }}, recall {{ '%.4f' | format(evaluation['weakest_recall']) }} |
| calibration error | {{ '%.4f' | format(evaluation['calibration_error']) }} |
| stored threshold | {{ '%.4f' | format(gate['threshold']) }} |
| champion | {{ gate.get('champion') or 'none yet' }} |
{% for name, value in gate.items()
   if name not in ('reason', 'decision', 'threshold', 'val_accuracy', 'metric', 'val_metric', 'champion', 'report',
                   'p_value') -%}
| {{ name | replace('_', ' ') }} | {{ '%.4g' | format(value) if value is float else plain(value) }} |
{% endfor %}
[The run's report]($base/dags/car_retrain/runs/{{ run_id | urlencode }}/plugin/car-classifier-report) shows the gate's \
rules and the misclassified images. In the store, $store:
{% for key in (gate.get('report'), evaluation.get('report')) if key %}
- `{{ key }}`
{% endfor %}
**Approve** promotes the model and submits its predictions. **Reject**, or no response within $hours hours, does
neither.
""")


class RecordedApproval(ApprovalOperator):  # type: ignore[misc]  # Airflow is not type-checked here
    """Asks for approval, and records the response before the task ends, so that no page is behind the DAG run."""

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Continue after the response; it raises DownstreamTasksSkipped after a rejection."""
        try:
            return super().execute_complete(context, event)
        finally:
            if "approved" in self.hitl_summary_extra:
                _record_response(context, self.hitl_summary_extra)


@task_group(group_id="approval")  # type: ignore[untyped-decorator]  # Airflow is not type-checked here
def approval_tasks() -> None:
    """Add ``ask``, which waits for approval without occupying a slot, and ``promote``, which promotes the model."""
    ask = RecordedApproval(
        task_id="ask", subject="Promote the model of {{ run_id }} and submit its predictions?", body=_question(),
        defaults=ApprovalOperator.REJECT, response_timeout=timedelta(hours=TIMEOUT_HOURS),
        execution_timeout=timedelta(minutes=10), ignore_downstream_trigger_rules=True,
    )

    @task(  # type: ignore[untyped-decorator]  # as above
        task_id="promote", execution_timeout=timedelta(hours=1), **gpu_task_options("promote")
    )
    def promote() -> dict[str, Any]:
        context = get_current_context()
        user = context["ti"].xcom_pull(task_ids=ASK_TASK)["responded_by_user"]
        result = run_stage("promote", context, "--approved-by", user["name"])
        if result["omitted"]:
            skip_tasks(context, result["omitted"], result)
        return result

    ask >> promote()


def _question() -> str:
    base_url = conf.get("api", "base_url", fallback="") or ""
    escapes = "".join(f" | replace({mark!r}, {chr(92) + mark!r})" for mark in MARKDOWN)
    return BODY.substitute(escapes=escapes, store=os.environ.get("CARCLF_STORE", "store"), hours=f"{TIMEOUT_HOURS:g}",
                           base=urlsplit(base_url).path.rstrip("/"),
                           labels={name: metric.label for name, metric in METRICS.items()})


def promote_or_request_approval(context: Mapping[str, Any]) -> dict[str, Any]:
    """Run promote; skip the approval's tasks and the omitted stages unless the stage waits for approval."""
    result = run_stage("promote", context)
    if not result["waiting"]:
        skip_tasks(context, [ASK_TASK, PROMOTE_TASK, *result["omitted"]], result)
    return result


def _record_response(context: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """Log the response, keep it for the notification, and write a rejection to the run's record."""
    user = summary["responded_by_user"]
    actor = user["name"] if user else f"timeout after {TIMEOUT_HOURS:g} hours"
    text = f"approved by {actor}" if summary["approved"] else f"declined by {actor}: nothing is promoted or submitted"
    log.info("approval: %s", text)
    context["ti"].xcom_push(key="response", value=text)
    if not summary["approved"]:
        options = ["--run", run_id_from_dag_run(context["dag_run"].run_id), "--declined-by", actor]
        run_command("promote", options, child_environment("promote"))
