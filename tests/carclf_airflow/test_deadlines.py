"""The deadline of a decision: its callback as the triggerer runs it, and its row in Airflow's database."""

import json
import sqlite3
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from airflow_process import airflow_environment, run_python
from gate_candidates import build_candidate
from notification_receivers import mail_receiver, webhook_receiver
from recorded_runs import record_attempt, record_candidate

from carclf.config import load_config
from carclf.runs.approvals import Claimant, end_request, waiting_candidates
from carclf.runs.record import run_id_from_dag_run
from carclf.runs.run import Result, Run
from carclf.services.storage import open_store

pytestmark = pytest.mark.integration

RUN_ID = "manual__2026-01-01T00:00:00+00:00"
CODE = """
    import asyncio, importlib, sys
    from airflow.triggers.callback import CallbackTrigger

    run_id, dag_id, state = sys.argv[1:]
    (deadline,) = getattr(importlib.import_module(dag_id), dag_id)().deadline
    run = {"dag_id": dag_id, "dag_run_id": run_id, "state": state}

    async def report():
        context = {"dag_run": run, "deadline": {"id": "1", "deadline_time": "2026-01-02"}}
        trigger = CallbackTrigger(deadline.callback.path, {**deadline.callback.kwargs, "context": context})
        return [event.payload["state"] async for event in trigger.run()]

    print(deadline.interval, *asyncio.run(report()))
"""
SETTINGS = {"CARCLF_DEADLINE_HOURS": "1.5", "CARCLF_SCHEDULE": "none", "AIRFLOW__API__BASE_URL": "http://host/airflow/"}
TEXT = ("car_retrain manual__2026-01-01T00:00:00+00:00: late: no decision 1.5 hours after the run was queued; {} "
        "http://host/airflow/dags/car_retrain/runs/manual__2026-01-01T00%3A00%3A00%2B00%3A00")


def report(environment: dict[str, str], dag_id: str = "car_retrain", state: str = "running") -> str:
    """Run the callback as the triggerer does; return the interval and the states of the callback."""
    return run_python(CODE, environment, RUN_ID, dag_id, state).stdout.splitlines()[-1]


def start_run(environment: dict[str, str]) -> Run:
    store = open_store(environment["CARCLF_STORE"])
    return Run.start_or_resume(run_id_from_dag_run(RUN_ID), store, "demo", load_config("demo", {"data.source": "cars"}))


def test_a_late_run_is_reported_to_a_webhook_unless_it_has_a_decision(tmp_path: Path) -> None:
    with webhook_receiver() as webhook:
        environment = airflow_environment(tmp_path, **SETTINGS, CARCLF_NOTIFICATION_URL=webhook.url)
        assert report(environment) == "1:30:00 running success"
        run = start_run(environment)
        record_attempt(run, "fine_tune", "running", since="2026-01-01T01:02:03+00:00")
        report(environment)
        run.record_result(Result("promote", "d", False, 1.0, {"decision": "rejected", "reason": "weak"}, ""))
        assert report(environment) == "1:30:00 running success"
    first, second = webhook.messages
    assert first["text"] == TEXT.format("it has not started")
    assert second["text"] == TEXT.format("fine_tune is running since 2026-01-01 01:02 UTC")
    assert (second["outcome"], second["state"], second["metrics"]) == ("late", "running", {})


def test_a_late_run_is_reported_by_mail_if_the_store_is_missing(tmp_path: Path) -> None:
    with mail_receiver() as mailbox:
        connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": mailbox.port,
                      "extra": {"disable_ssl": True, "disable_tls": True, "from_email": "airflow@cars"}}
        settings = SETTINGS | {"CARCLF_NOTIFICATION_URL": "mailto:me@cars", "CARCLF_STORE": str(tmp_path / "missing"),
                               "AIRFLOW_CONN_SMTP_DEFAULT": json.dumps(connection)}
        assert report(airflow_environment(tmp_path) | settings) == "1:30:00 running success"
    (mail,) = mailbox.mails
    assert mail["Subject"] == f"carclf: {RUN_ID} late"
    assert "its record cannot be read: There is no store" in mail.get_payload(0).get_payload(decode=True).decode()


def test_an_unreachable_receiver_fails_the_callback_without_its_url(tmp_path: Path) -> None:
    url = "http://127.0.0.1:9/secret"
    environment = airflow_environment(tmp_path, **SETTINGS, CARCLF_NOTIFICATION_URL=url)
    done = run_python(CODE, environment, RUN_ID, "car_retrain", "running")
    assert done.stdout.splitlines()[-1] == "1:30:00 running failed"
    assert "secret" not in done.stdout + done.stderr


def test_a_run_reminds_of_the_candidates_that_it_asks_about(tmp_path: Path) -> None:
    with webhook_receiver() as webhook:
        environment = airflow_environment(tmp_path, CARCLF_APPROVAL_REMINDER_HOURS="12",
                                          CARCLF_NOTIFICATION_URL=webhook.url)
        store = open_store(environment["CARCLF_STORE"])
        for claimant, number in ((RUN_ID, 1), ("another", 2)):
            run = record_candidate(store, f"run-{number}", build_candidate(store, f"model-{number}", range(number)),
                                   **{"gate.approval": "required"})
            assert run.run_stage("promote").waiting
            assert waiting_candidates(store, Claimant(claimant, 25))
        assert report(environment, "car_promote", "failed") == "12:00:00 running success"  # it asks no more
        assert report(environment, "car_promote") == "12:00:00 running success"
        end_request(Run.load("run-1", store), "declined", by="ada")
        assert report(environment, "car_promote") == "12:00:00 running success"
    (reminder,) = webhook.messages
    assert (reminder["dag_id"], reminder["run_id"], reminder["outcome"]) == ("car_promote", "run-1", "waiting")
    assert reminder["reason"] == "no decision for 12 hours; without a response, the question expires after 24 hours"


@pytest.mark.parametrize(("variable", "hours"), [
    *(("CARCLF_DEADLINE_HOURS", hours) for hours in ("0", "-1", "soon", "nan", "inf")),
    ("CARCLF_APPROVAL_REMINDER_HOURS", "24"),  # the question expires
])
def test_invalid_hours_fail_the_import_of_the_dag(variable: str, hours: str, tmp_path: Path) -> None:
    environment = airflow_environment(tmp_path, CARCLF_NOTIFICATION_URL="http://host", **{variable: hours})
    code = "from carclf_airflow.deadlines import *; decision_deadline(), approval_reminder()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and f"Invalid {variable} '{hours}'" in done.stderr


@pytest.mark.dags
def test_a_queued_run_has_a_deadline_in_the_database(tmp_path: Path) -> None:
    """Airflow's scheduler compares these rows with the time."""
    environment = airflow_environment(tmp_path, **SETTINGS, CARCLF_NOTIFICATION_URL="http://host")
    for command in (["db", "migrate"], ["dags", "reserialize"], ["dags", "unpause", "-y", "car_retrain"],
                    ["dags", "trigger", "car_retrain", "--run-id", "late"]):
        subprocess.run([sys.executable, "-m", "airflow", *command], env=environment, check=True, capture_output=True)
    with sqlite3.connect(tmp_path / "a.db") as database:
        query = ("SELECT dag_run.run_id, queued_at, deadline_time FROM deadline JOIN dag_run "
                 "ON dag_run.id = deadline.dagrun_id")
        ((run_id, *times),) = database.execute(query).fetchall()
    queued, deadline = map(datetime.fromisoformat, times)
    assert run_id == "late" and (deadline - queued).total_seconds() == pytest.approx(5400, abs=5)
