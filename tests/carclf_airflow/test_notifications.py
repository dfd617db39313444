"""Notifications at the end of a run, by a webhook and by mail."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow_process import airflow_environment, run_python
from notification_receivers import Mailbox, Webhook, mail_receiver, webhook_receiver

pytestmark = pytest.mark.integration

BASE_URL = "http://127.0.0.1:8080"
RUN_URL = f"{BASE_URL}/dags/car_retrain/runs/manual__1"
REASON = "awaiting approval: promoted: {{ all }} <rules> hold"
REJECTED = {"promote return_value": {"metrics": {"decision": "rejected", "reason": "rejected: weak"}}}
INTERVAL = {"metric": "log_loss", "val_metric": 0.5, "val_metric_low": 0.4, "val_metric_high": 0.61}
SCORED = {"evaluate return_value": {"metrics": INTERVAL | {"num_images": 500}},
          "promote return_value": {"metrics": {"decision": "promoted", "reason": "promoted: all rules hold",
                                               "metric": "log_loss", "val_metric": 0.5}},
          "score return_value": {"metrics": {"ref": 7, "public_score": 0.9, "rank": 2, "warning": ""}}}
COMPARISON = {"difference": 0.0123, "difference_low": -0.003, "difference_high": 0.027,
              "largest_class_change": "<a&b>: recall 0.800, the champion's 0.700 (30 images)"}
COMPARED = {"evaluate return_value": {"metrics": INTERVAL},
            "promote return_value": {"metrics": REJECTED["promote return_value"]["metrics"] | COMPARISON}}
NOT_SUBMITTED = {
    "promote return_value": {"metrics": {"decision": "promoted", "reason": "promoted: all rules hold"}},
    "submit return_value": {"key": "", "metrics": {}, "skip_reason": "notebooks only"},
}
WAITING = {"promote return_value": {"waiting": True, "metrics": {
    "decision": "awaiting approval", "threshold": 0.9, "p_value": 0.01234567, "reason": REASON}}}
DECLINED = {"skip_reason": "declined by admin: weak", "metrics": {"decision": "declined", "reason": REASON}}
CANDIDATES = {
    "candidates return_value": [{"run": "r-0"}, {"run": "r-1"}, {"run": "r-2"}],
    "candidates metrics": [{}, INTERVAL, {}],
    "candidate.promote return_value 0": DECLINED,
    "candidate.promote return_value 1": {"metrics": {"decision": "promoted", "reason": "promoted: all rules hold"}},
    "candidate.score return_value 1": {"metrics": {"public_score": 0.9}},
    "candidate.promote error 2": "ServiceError: down",
}
CODE = """
    import json, os, sys
    from types import SimpleNamespace as N
    from carclf_airflow import notifications
    for target, state, xcoms in json.loads(sys.argv[1]):
        os.environ["CARCLF_NOTIFICATION_URL"] = target
        def xcom_pull(task_ids, key="return_value", map_indexes=""):
            return xcoms.get(f"{task_ids} {key} {map_indexes}".strip())
        ti = N(xcom_pull=xcom_pull)
        dag_id = xcoms.get("dag_id", "car_promote" if "candidates return_value" in xcoms else "car_retrain")
        try:
            notifications.notification_callbacks(dag_id)[f"on_{state}_callback"](
                {"run_id": "manual__1", "ti": ti, "dag": None, "reason": "task_failure"})
            print("sent")
        except ConnectionError as error:
            print("ConnectionError", error)
"""


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with webhook_receiver() as receiver:
        yield receiver


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with mail_receiver() as receiver:
        yield receiver


def notify(home: Path, *cases: tuple[str, str, dict[str, Any]], **settings: str) -> list[str]:
    """Send a notification for each (URL, state, XComs); return "sent" or the error of each."""
    environment = airflow_environment(home, AIRFLOW__API__BASE_URL=f"{BASE_URL}/", **settings)
    done = run_python(CODE, environment, json.dumps(cases))
    assert "secret" not in done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith(("sent", "ConnectionError"))]


def test_a_webhook_gets_the_outcome_as_json(tmp_path: Path, webhook: Webhook) -> None:
    failed = REJECTED | {"submit error": "ServiceError: down"}
    cases = [(webhook.url, "success", SCORED), (webhook.url, "success", WAITING), (webhook.url, "success", REJECTED),
             (webhook.url, "failure", failed), (webhook.url, "success", NOT_SUBMITTED)]
    assert notify(tmp_path, *cases) == ["sent"] * 5
    scored, *others = webhook.messages
    assert scored == {
        "text": "car_retrain manual__1: promoted: all rules hold (validation log loss 0.5 (95%: 0.4 to 0.61), "
                f"public score 0.9, rank 2) {RUN_URL}",
        "dag_id": "car_retrain", "run_id": "manual__1", "state": "success", "outcome": "promoted",
        "reason": "promoted: all rules hold", "metrics": INTERVAL | {"public_score": 0.9, "rank": 2}, "url": RUN_URL,
    }
    assert [(message["outcome"], message["reason"]) for message in others] == [
        ("awaiting approval", REASON),
        ("rejected", "rejected: weak"), ("failed", "submit: ServiceError: down"),
        ("promoted", "promoted: all rules hold; not submitted: notebooks only"),
    ]
    assert others[0]["text"].endswith(f"hold (threshold 0.9) {RUN_URL}")


def test_car_promote_notifies_of_each_candidate_and_of_nothing_if_there_is_none(
    tmp_path: Path, webhook: Webhook
) -> None:
    cases = [(webhook.url, "failure", CANDIDATES), (webhook.url, "success", {"candidates return_value": []})]
    assert notify(tmp_path, *cases) == ["sent"] * 2
    assert [(message["run_id"], message["outcome"], message["reason"]) for message in webhook.messages] == [
        ("r-0", "declined", f"declined by admin: weak; {REASON}"), ("r-1", "promoted", "promoted: all rules hold"),
        ("r-2", "failed", "promote: ServiceError: down")]
    assert webhook.messages[1]["metrics"] == INTERVAL | {"public_score": 0.9}
    assert "(validation log loss 0.5 (95%: 0.4 to 0.61), public score 0.9)" in webhook.messages[1]["text"]
    assert webhook.messages[1]["url"] == f"{BASE_URL}/dags/car_promote/runs/manual__1"


def test_a_failed_run_of_another_dag_is_reported(tmp_path: Path, webhook: Webhook) -> None:
    assert notify(tmp_path, (webhook.url, "failure", {"dag_id": "car_publish"})) == ["sent"]
    (message,) = webhook.messages
    assert (message["dag_id"], message["outcome"], message["reason"]) == ("car_publish", "failed", "task_failure")
    assert message["url"] == f"{BASE_URL}/dags/car_publish/runs/manual__1"


def test_a_run_with_nothing_new_is_announced_only_if_it_failed(tmp_path: Path, webhook: Webhook) -> None:
    nothing = {"download return_value": {"key": "ab", "metrics": {}, "skip_reason": "nothing new: run r had the same"}}
    notify(tmp_path, (webhook.url, "success", nothing), (webhook.url, "failure", nothing))
    assert [(message["outcome"], message["reason"]) for message in webhook.messages] == [("failed", "task_failure")]


def test_a_candidate_whose_notification_fails_does_not_silence_the_others(tmp_path: Path, webhook: Webhook) -> None:
    (error,) = notify(tmp_path, (f"{webhook.url}/fail", "failure", CANDIDATES))
    assert error == "ConnectionError 127.0.0.1: HTTP status 500"
    assert [message["run_id"] for message in webhook.messages] == ["r-0", "r-1", "r-2"]


def test_a_mail_is_sent_by_airflows_smtp_connection(tmp_path: Path, mailbox: Mailbox) -> None:
    connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": mailbox.port,
                  "extra": {"disable_ssl": True, "disable_tls": True, "from_email": "airflow@cars"}}
    case = ("mailto:me@cars", "success", WAITING)
    assert notify(tmp_path, case, AIRFLOW_CONN_SMTP_DEFAULT=json.dumps(connection)) == ["sent"]
    (mail,) = mailbox.mails
    assert (mail["To"], mail["From"]) == ("me@cars", "airflow@cars")
    assert mail["Subject"] == "carclf: manual__1 awaiting approval"
    assert "{{ all }} &lt;rules&gt; hold" in mail.get_payload(0).get_payload(decode=True).decode()


def test_an_error_names_the_host_but_not_the_url(tmp_path: Path, webhook: Webhook) -> None:
    """Airflow logs what a callback raises; the URL may hold a secret."""
    cases = [(f"{webhook.url}/fail/secret", "success", REJECTED), ("http://127.0.0.1:9/secret", "success", REJECTED)]
    failed, unreachable = notify(tmp_path, *cases)
    assert failed.startswith("ConnectionError 127.0.0.1: ")
    assert "500" in failed
    assert unreachable == "ConnectionError 127.0.0.1: ConnectionError"


def test_an_invalid_notification_url_fails_the_import_of_the_dag(tmp_path: Path) -> None:
    environment = airflow_environment(tmp_path, CARCLF_NOTIFICATION_URL="ftp://secret@host")
    done = subprocess.run([sys.executable, "-c", "import car_retrain"], env=environment, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 1
    assert "ValueError: Invalid CARCLF_NOTIFICATION_URL" in done.stderr
    assert "secret" not in done.stderr


def test_a_notification_compares_the_model_with_the_champion(tmp_path: Path, webhook: Webhook) -> None:
    assert notify(tmp_path, (webhook.url, "success", COMPARED)) == ["sent"]
    (message,) = webhook.messages
    assert message["text"] == (
        "car_retrain manual__1: rejected: weak (validation log loss 0.5 (95%: 0.4 to 0.61), difference to the champion "
        "0.0123 (95%: -0.003 to 0.027), largest class change <a&b>: recall 0.800, the champion's 0.700 (30 images)) "
        f"{RUN_URL}")
    assert message["metrics"] == INTERVAL | COMPARISON


def test_slack_gets_an_escaped_text_and_nothing_else(tmp_path: Path, webhook: Webhook) -> None:
    """Slack's address is reached by a proxy, which is the receiver."""
    case = ("http://hooks.slack.com/services/T0/B0/secret", "success", COMPARED)
    assert notify(tmp_path, case, http_proxy=webhook.url, no_proxy="") == ["sent"]
    (message,) = webhook.messages
    assert list(message) == ["text"]
    assert message["text"].startswith("car_retrain manual__1: rejected: weak")
    assert "&lt;a&amp;b&gt;: recall 0.800, the champion's" in message["text"]
