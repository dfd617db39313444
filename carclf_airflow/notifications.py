"""One message when a run ends, where the deployment names somebody to tell (CARCLF_NOTIFICATION_URL)."""

import html
import os
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from airflow.sdk import BaseNotifier
from airflow.sdk.configuration import conf

from carclf.formatting import format_value
from carclf.stages.chain import STAGES

TIMEOUT_SECONDS = 20
MAIL = "mailto:"
APPROVED_PROMOTION = "approval.promote"
TASKS = (*STAGES, APPROVED_PROMOTION)


def notification_callbacks() -> dict[str, Any]:
    """The DAG's callbacks, which run in the DAG processor; none where CARCLF_NOTIFICATION_URL is not set."""
    if not (target := _target()):
        return {}
    if not target.startswith(("http://", "https://", MAIL)):
        raise ValueError("CARCLF_NOTIFICATION_URL is neither an http:// or https:// URL nor mailto:address.")
    return {"on_success_callback": partial(send_notification, "success"), "on_failure_callback": partial(send_notification, "failed")}


def _target() -> str:
    # Read when it is needed: Airflow may log a callback with its arguments, and the URL may hold a secret.
    return os.environ.get("CARCLF_NOTIFICATION_URL", "")


def send_notification(state: str, context: Mapping[str, Any]) -> None:
    """Send what became of the run to a URL or a mail address."""
    found = build_notification(state, context)
    _notifier(_target())({**context, "notice": found | {"html": html.escape(found["text"])}})


def build_notification(state: str, context: Mapping[str, Any]) -> dict[str, Any]:
    """What is told: ``text`` in one line, and its parts."""
    run_id = context["run_id"]
    outcome, reason, metrics = _outcome(state, context)
    link = f"{conf.get('api', 'base_url', fallback='').rstrip('/')}/dags/car_retrain/runs/{quote(run_id)}"
    known = ", ".join(f"{name.replace('_', ' ')} {format_value(value)}" for name, value in metrics.items())
    said = reason if reason.startswith(outcome) else f"{outcome}: {reason}"
    text = f"car_retrain {run_id}: {said}{f' ({known})' if known else ''} {link}"
    return {"text": text, "dag": "car_retrain", "run": run_id, "state": state, "outcome": outcome, "reason": reason,
            "metrics": metrics, "link": link}


def _outcome(state: str, context: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
    if "ti" not in context:  # a run that ended before any task of it did
        return state, str(context.get("reason", "")), {}
    pull = context["ti"].xcom_pull
    results = {name: result for name in TASKS if isinstance(result := pull(task_ids=name), dict)}
    decided = results.get(APPROVED_PROMOTION) or results.get("promote") or {"metrics": {}}
    metrics = _figures(decided["metrics"] | results.get("score", {"metrics": {}})["metrics"])
    if state == "failed":
        errors = {name: error for name in TASKS if (error := pull(task_ids=name, key="error"))}
        last = "; ".join(f"{name}: {error}" for name, error in errors.items() if name not in results)
        return "failed", last or str(context.get("reason", "")), metrics
    reason = str(decided["metrics"].get("reason", ""))
    if decided.get("waiting"):
        answer = pull(task_ids="approval.ask", key="answer") or "rejected"
        # How to go on would lead around the answer.
        return "not approved", f"{answer}; {reason.partition('. To go on: ')[0]}", metrics
    return str(decided["metrics"].get("decision", state)), reason, metrics


def _figures(found: dict[str, Any]) -> dict[str, Any]:
    names = ("val_accuracy", "threshold", "champion", "p_value", "public_score", "rank", "gap", "warning")
    return {name: found[name] for name in names if found.get(name) not in (None, "")}


def _notifier(target: str) -> BaseNotifier:
    if not target.startswith(MAIL):
        return WebhookNotifier(target)
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    # From the connection of [email] email_conn_id (smtp_default). The context's words are no templates themselves.
    return SmtpNotifier(to=target.removeprefix(MAIL), from_email=conf.get("email", "from_email", fallback=None),
                        subject="carclf: {{ notice.run }} {{ notice.outcome }}", html_content="{{ notice.html }}")


class WebhookNotifier(BaseNotifier):
    """A JSON POST. HttpNotifier would want a connection of its own, and has no time-out unless told there."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    def notify(self, context: Mapping[str, Any]) -> None:
        """Post the context's ``notice``; what goes wrong is told without the URL, which may hold a secret."""
        body = {name: value for name, value in context["notice"].items() if name != "html"}
        try:
            answer = requests.post(self.url, json=body, timeout=TIMEOUT_SECONDS)
        except requests.RequestException as error:
            raise ConnectionError(f"{urlsplit(self.url).hostname}: {type(error).__name__}") from None
        if not answer.ok:
            raise ConnectionError(f"{urlsplit(self.url).hostname} answered {answer.status_code}")
