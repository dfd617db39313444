"""Notify a URL or a mail address when a run ends (CARCLF_NOTIFICATION_URL)."""

import asyncio
import html
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from airflow.sdk import BaseNotifier
from airflow.sdk.configuration import conf

from carclf.formatting import format_value
from carclf.metrics import METRICS
from carclf.stages.chain import STAGES
from carclf_airflow.ids import ASK_TASK, PROMOTE_TASK, RETRAIN_DAG

TIMEOUT_SECONDS = 20
MAIL = "mailto:"
TASKS = (*STAGES, PROMOTE_TASK)
METRIC_FIELDS = ("metric", "val_metric", "val_metric_low", "val_metric_high")
COMPARISON_FIELDS = ("difference", "difference_low", "difference_high")
SHOWN_METRICS = (
    *METRIC_FIELDS, *COMPARISON_FIELDS, "largest_class_change", "val_accuracy", "threshold", "champion", "public_score",
    "rank", "gap", "warning",
)
SLACK_HOST = "hooks.slack.com"


@dataclass(frozen=True)
class Outcome:
    """The end of a run: the gate's decision, "declined" (at approval) or Airflow's state; the reason; the metrics."""

    name: str
    reason: str
    metrics: dict[str, Any] = field(default_factory=dict)


def notification_callbacks() -> dict[str, Any]:
    """Return the DAG's callbacks, which run in the DAG processor; none unless CARCLF_NOTIFICATION_URL is set.

    Raises:
        ValueError: CARCLF_NOTIFICATION_URL is not a URL that can be notified.
    """
    if not (target := _target()):
        return {}
    if not target.startswith(("http://", "https://", MAIL)):
        raise ValueError("Invalid CARCLF_NOTIFICATION_URL: expected http://..., https://... or mailto:address.")
    return {"on_success_callback": partial(send_notification, "success"),
            "on_failure_callback": partial(send_notification, "failed")}


def _target() -> str:
    # Read when it is needed: Airflow may log a callback with its arguments, and the URL may hold a secret.
    return os.environ.get("CARCLF_NOTIFICATION_URL", "")


def send_notification(state: str, context: Mapping[str, Any]) -> None:
    """Send the run's outcome to CARCLF_NOTIFICATION_URL."""
    notice = build_notification(state, context)
    _notifier(_target())({**context, "notice": notice | {"html": html.escape(notice["text"])}})


async def send_notice(notice: Mapping[str, Any]) -> None:
    """Send a notification to CARCLF_NOTIFICATION_URL from the triggerer, in a thread: others use its event loop."""
    context = {"notice": {**notice, "html": html.escape(notice["text"])}}
    await asyncio.to_thread(_notifier(_target()), context)


def build_notification(state: str, context: Mapping[str, Any]) -> dict[str, Any]:
    """Return the notification's JSON: ``text``, a line that holds everything, and its parts."""
    run_id = context["run_id"]
    outcome = _outcome(state, context)
    url = f"{conf.get('api', 'base_url', fallback='').rstrip('/')}/dags/{RETRAIN_DAG}/runs/{quote(run_id)}"
    reason = outcome.reason if outcome.reason.startswith(outcome.name) else f"{outcome.name}: {outcome.reason}"
    metrics = _describe_metrics(outcome.metrics)
    text = f"{RETRAIN_DAG} {run_id}: {reason}{f' ({metrics})' if metrics else ''} {url}"
    return {"text": text, "dag_id": RETRAIN_DAG, "run_id": run_id, "state": state, "outcome": outcome.name,
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


def _outcome(state: str, context: Mapping[str, Any]) -> Outcome:
    if "ti" not in context:  # the run ended before any of its tasks
        return Outcome(state, str(context.get("reason", "")))
    pull = context["ti"].xcom_pull
    results = {name: result for name in TASKS if isinstance(result := pull(task_ids=name), dict)}
    promotion = results.get(PROMOTE_TASK) or results.get("promote") or {"metrics": {}}
    evaluated, score = (results.get(stage, {"metrics": {}})["metrics"] for stage in ("evaluate", "score"))
    metrics = _shown(evaluated | promotion["metrics"] | score)
    if state == "failed":
        errors = {name: error for name in TASKS if (error := pull(task_ids=name, key="error"))}
        text = "; ".join(f"{name}: {error}" for name, error in errors.items() if name not in results)
        return Outcome("failed", text or str(context.get("reason", "")), metrics)
    reason = str(promotion["metrics"].get("reason", ""))
    if promotion.get("waiting"):
        response = pull(task_ids=ASK_TASK, key="response") or "declined"
        return Outcome("declined", f"{response}; {reason}", metrics)
    skipped = results.get("submit", results.get("refit", promotion)).get("skip_reason") or ""
    decision = str(promotion["metrics"].get("decision", state))
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
