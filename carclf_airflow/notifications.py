"""Notify a URL or a mail address when a run ends (CARCLF_NOTIFICATION_URL)."""

import asyncio
import html
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from airflow.sdk import BaseNotifier
from airflow.sdk.configuration import conf

from carclf.formatting import format_value
from carclf.metrics import METRICS
from carclf.runs.record import NOTHING_NEW
from carclf.stages.chain import STAGES
from carclf_airflow.ids import CANDIDATE_GROUP, CANDIDATES_TASK, METRICS_KEY, PROMOTE_DAG, RETRAIN_DAG

TIMEOUT_SECONDS = 20
MAIL = "mailto:"
NO_PROMOTION = ("declined", "expired")
METRIC_FIELDS = ("metric", "val_metric", "val_metric_low", "val_metric_high")
COMPARISON_FIELDS = ("difference", "difference_low", "difference_high")
SHOWN_METRICS = (
    *METRIC_FIELDS, *COMPARISON_FIELDS, "largest_class_change", "val_accuracy", "threshold", "champion", "public_score",
    "rank", "gap", "warning",
)
SLACK_HOST = "hooks.slack.com"


@dataclass(frozen=True)
class Outcome:
    """The end of a run: the gate's decision, a person's ("declined", "expired") or Airflow's state; reason; metrics."""

    name: str
    reason: str
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """The results and errors of a run's stages, by stage."""

    run_id: str
    results: dict[str, dict[str, Any]]
    errors: dict[str, str]


def notification_callbacks(dag_id: str) -> dict[str, Any]:
    """Return the DAG's callbacks, which run in the DAG processor; none unless CARCLF_NOTIFICATION_URL is set.

    Raises:
        ValueError: CARCLF_NOTIFICATION_URL is not a URL that can be notified.
    """
    if not (target := _target()):
        return {}
    if not target.startswith(("http://", "https://", MAIL)):
        raise ValueError("Invalid CARCLF_NOTIFICATION_URL: expected http://..., https://... or mailto:address.")
    return {"on_success_callback": partial(send_notifications, dag_id, "success"),
            "on_failure_callback": partial(send_notifications, dag_id, "failed")}


def failure_callback(dag_id: str) -> dict[str, Any]:
    """Return the callback of a DAG of which only failed runs are reported; errors as above."""
    callbacks = notification_callbacks(dag_id)
    callbacks.pop("on_success_callback", None)
    return callbacks


def _target() -> str:
    # Read when it is needed: Airflow may log a callback with its arguments, and the URL may hold a secret.
    return os.environ.get("CARCLF_NOTIFICATION_URL", "")


def send_notifications(dag_id: str, state: str, context: Mapping[str, Any]) -> None:
    """Send the outcome of the run to CARCLF_NOTIFICATION_URL; of car_promote, the outcome of each candidate.

    A notification that cannot be sent does not stop those of the other candidates; then the first error is raised.
    """
    errors: list[Exception] = []
    for results in _results(dag_id, state, context):
        notice = build_notification(dag_id, state, context, results)
        try:
            _notifier(_target())({**context, "notice": notice | {"html": html.escape(notice["text"])}})
        except Exception as error:  # noqa: BLE001 (each notifier raises its own)
            errors.append(error)
    if errors:
        raise errors[0]


def _results(dag_id: str, state: str, context: Mapping[str, Any]) -> list[Results]:
    if "ti" not in context or dag_id not in (RETRAIN_DAG, PROMOTE_DAG):  # or the run ended before any of its tasks
        return [Results(context["run_id"], {}, {})]
    pull = context["ti"].xcom_pull
    if dag_id != PROMOTE_DAG:
        results = _stage_results(context["run_id"], pull)
        return [] if state == "success" and _has_nothing_new(results) else [results]
    candidates = pull(task_ids=CANDIDATES_TASK) or []
    metrics = pull(task_ids=CANDIDATES_TASK, key=METRICS_KEY) or [{}] * len(candidates)
    if not candidates and state == "failed":
        return [Results(context["run_id"], {}, {})]
    results_of_all = [  # a run that had nothing to ask sends nothing
        _stage_results(candidate["run"], partial(pull, map_indexes=number), f"{CANDIDATE_GROUP}.")
        for number, candidate in enumerate(candidates)
    ]
    for results, evaluated in zip(results_of_all, metrics, strict=True):
        results.results["evaluate"] = {"metrics": evaluated}
    return results_of_all


def _has_nothing_new(results: Results) -> bool:
    """Return whether the run ended after download because it would have repeated an earlier one."""
    reason = results.results.get("download", {}).get("skip_reason")
    return str(reason or "").startswith(NOTHING_NEW)


def _stage_results(run_id: str, pull: Callable[..., Any], prefix: str = "") -> Results:
    results = {name: value for name in STAGES if isinstance(value := pull(task_ids=f"{prefix}{name}"), dict)}
    errors = {name: error for name in STAGES if (error := pull(task_ids=f"{prefix}{name}", key="error"))}
    errors = {name: error for name, error in errors.items() if name not in results}  # the others succeeded later
    return Results(run_id, results, errors)


async def send_notice(notice: Mapping[str, Any]) -> None:
    """Send a notification to CARCLF_NOTIFICATION_URL from the triggerer, in a thread: others use its event loop."""
    context = {"notice": {**notice, "html": html.escape(notice["text"])}}
    await asyncio.to_thread(_notifier(_target()), context)


def build_notification(dag_id: str, state: str, context: Mapping[str, Any], results: Results) -> dict[str, Any]:
    """Return the notification's JSON: ``text``, a line that holds everything, and its parts."""
    run_id = results.run_id
    if dag_id == PROMOTE_DAG and "promote" in results.results and not results.errors:
        state = "success"  # another candidate of this DAG run may have failed
    outcome = _outcome(state, results, str(context.get("reason", "")))
    url = f"{conf.get('api', 'base_url', fallback='').rstrip('/')}/dags/{dag_id}/runs/{quote(context['run_id'])}"
    reason = outcome.reason if outcome.reason.startswith(outcome.name) else f"{outcome.name}: {outcome.reason}"
    metrics = _describe_metrics(outcome.metrics)
    text = f"{dag_id} {run_id}: {reason}{f' ({metrics})' if metrics else ''} {url}"
    return {"text": text, "dag_id": dag_id, "run_id": run_id, "state": state, "outcome": outcome.name,
            "reason": outcome.reason, "metrics": outcome.metrics, "url": url}


def _describe_metrics(metrics: Mapping[str, Any]) -> str:
    """Return the metric of the data and its difference to the champion's, with 95% intervals, and the others."""
    hidden = {*METRIC_FIELDS, *COMPARISON_FIELDS}
    texts = []
    if metrics.get("metric") in METRICS and "val_metric" in metrics:
        metric = METRICS[metrics["metric"]]
        hidden |= {"val_accuracy"} if metric.is_accuracy else set()
        texts = [f"validation {metric.noun} {_with_interval(metrics, 'val_metric')}"]
    if "difference" in metrics:
        texts.append(f"difference to the champion {_with_interval(metrics, 'difference')}")
    others = {name: value for name, value in metrics.items() if name not in hidden}
    return ", ".join(texts + [f"{name.replace('_', ' ')} {format_value(value)}" for name, value in others.items()])


def _with_interval(metrics: Mapping[str, Any], name: str) -> str:
    low, high = (format_value(metrics.get(f"{name}_{bound}")) for bound in ("low", "high"))
    return format_value(metrics[name]) + (f" (95%: {low} to {high})" if low and high else "")


def _outcome(state: str, stages: Results, reason: str) -> Outcome:
    results = stages.results
    promotion = results.get("promote") or {"metrics": {}}
    evaluated, score = (results.get(stage, {"metrics": {}})["metrics"] for stage in ("evaluate", "score"))
    metrics = _shown(evaluated | promotion["metrics"] | score)
    if state == "failed":
        errors = [f"{name}: {error}" for name, error in stages.errors.items()]
        return Outcome("failed", "; ".join(errors) or reason, metrics)
    decision = str(promotion["metrics"].get("decision", state))
    reason = str(promotion["metrics"].get("reason", ""))
    if decision in NO_PROMOTION:
        return Outcome(decision, f"{promotion['skip_reason']}; {reason}", metrics)
    skipped = results.get("submit", results.get("refit", promotion)).get("skip_reason") or ""
    if skipped and decision == "promoted":
        reason = f"{reason}; not submitted: {skipped}"
    return Outcome(decision, reason, metrics)


def _shown(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: metrics[name] for name in SHOWN_METRICS if metrics.get(name) not in (None, "")}


def _notifier(target: str) -> BaseNotifier:
    if not target.startswith(MAIL):
        return WebhookNotifier(target)
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    # Uses the connection of [email] email_conn_id (smtp_default). Values of the context are not rendered as templates.
    return SmtpNotifier(to=target.removeprefix(MAIL), from_email=conf.get("email", "from_email", fallback=None),
                        subject="carclf: {{ notice.run_id }} {{ notice.outcome }}", html_content="{{ notice.html }}")


class WebhookNotifier(BaseNotifier):  # type: ignore[misc]  # Airflow is not type-checked here
    """POST the notification as JSON. Airflow's HttpNotifier needs a connection, and has no timeout by default."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    def notify(self, context: Mapping[str, Any]) -> None:
        """Post the context's ``notice``; errors name the host only, since the URL may hold a secret."""
        host = urlsplit(self.url).hostname
        body = {name: value for name, value in context["notice"].items() if name != "html"}
        if host == SLACK_HOST:  # its incoming webhooks take a text, in which <, > and & are escaped
            body = {"text": html.escape(body["text"], quote=False)}
        try:
            response = requests.post(self.url, json=body, timeout=TIMEOUT_SECONDS)
        except requests.RequestException as error:
            raise ConnectionError(f"{host}: {type(error).__name__}") from None
        if not response.ok:
            raise ConnectionError(f"{host}: HTTP status {response.status_code}")
