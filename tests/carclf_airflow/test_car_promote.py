"""The DAG car_promote in a real Airflow: candidates that wait, responses, and the champion's asset events."""

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from airflow_process import ROOT
from gate_candidates import Candidate, build_candidate
from recorded_runs import record_candidate
from typer.testing import CliRunner

from carclf.champion import ensure_state, read_state, record_promotion, roll_back
from carclf.cli.app import app
from carclf.dashboard.run_facts import run_facts
from carclf.services.storage import Store, init_store
from carclf_airflow.local.airflow_server import Airflow, AirflowError
from carclf_airflow.local.dag_run import FINISHED_STATES, DagRun, trigger_run
from carclf_airflow.local.processes import ProcessGroup
from carclf_airflow.local.session import stage_environment

pytestmark = [pytest.mark.dags, pytest.mark.timeout(900)]
SETTINGS = {"gate.approval": "required", "submit.enabled": False}
EXAMPLE = "follow_champion"
TIMEOUT_HOURS = 0.06  # long enough for the other tests; the last one waits for it


@dataclass(frozen=True)
class Question:
    """A question about a run, and the DAG run that asks it."""

    asking: DagRun
    path: str

    def respond(self, choice: str, note: str = "", until: str = "promote") -> None:
        """Respond as admin, and wait until a task of the candidate has finished."""
        time.sleep(3)  # Airflow can lose a response within about a second of the question
        self.asking.airflow.call("PATCH", self.path, {"chosen_options": [choice], "params_input": {"note": note}})
        wait_for(lambda: f"candidate.{until}" in self.finished_tasks())

    def finished_tasks(self) -> set[str]:
        """Return the ids of this candidate's tasks that have finished."""
        number = int(self.path.split("/")[-2])
        return {task["task_id"] for task in self.asking.task_instances()
                if task["map_index"] == number and task["state"] in FINISHED_STATES}


def wait_for(condition: Any) -> Any:
    limit = time.monotonic() + 600  # on a busy machine
    while not (value := condition()):
        assert time.monotonic() < limit
        time.sleep(1)
    return value


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return init_store(tmp_path_factory.mktemp("promote") / "store")


@pytest.fixture(scope="module")
def airflow(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    home = tmp_path_factory.mktemp("airflow")
    settings = {"CARCLF_SCHEDULE": "none", "CARCLF_APPROVAL_TIMEOUT_HOURS": str(TIMEOUT_HOURS),
                "CARCLF_CACHE": str(home / "cache"), "CARCLF_RETRY_DELAY_SECONDS": "1"}
    with pytest.MonkeyPatch.context() as patch, ProcessGroup(home / "logs") as processes:
        patch.setenv("CARCLF_PORT", "0")
        running = Airflow(home, processes, stage_environment(store.url) | settings)
        dags = tmp_path_factory.mktemp("dags")
        (dags / "car_promote.py").write_text((ROOT / "dags" / "car_promote.py").read_text())
        (dags / "example.py").write_text(example_dag())
        running.environment["AIRFLOW__CORE__DAGS_FOLDER"] = str(dags)
        running.start()
        for dag_id in ("car_promote", EXAMPLE):
            running.wait_for_dag(dag_id)
        running.call("PATCH", f"dags/{EXAMPLE}", {"is_paused": False})
        yield running


def example_dag() -> str:
    """Return the DAG that docs/retraining.md shows."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "retraining.md").read_text(), re.DOTALL)
    return str(code)


def wait_for_approval(store: Store, run_id: str, wrong: list[int]) -> Candidate:
    """Record a run whose candidate passes the gate and waits; ``wrong`` are the positions of its wrong predictions."""
    candidate = build_candidate(store, run_id, wrong)
    assert record_candidate(store, run_id, candidate, **SETTINGS).run_stage("promote").waiting
    return candidate


def questions(airflow: Airflow, *run_ids: str) -> list[Question]:
    """Wait until a person is asked about each run."""
    def find() -> dict[str, Question]:
        by_run = {}
        for row in airflow.call("GET", "dags/car_promote/dagRuns?state=running")["dag_runs"]:
            asking = DagRun(airflow, "car_promote", row["dag_run_id"])
            for task in asking.task_instances():
                if task["task_id"] == "candidate.ask" and task["state"] == "awaiting_input":
                    path = f"{asking.path}/taskInstances/candidate.ask/{task['map_index']}/hitlDetails"
                    by_run[airflow.call("GET", path)["subject"].split()[4]] = Question(asking, path)
        return by_run

    wait_for(lambda: set(run_ids) <= find().keys())
    asked = find()
    return [asked[run_id] for run_id in run_ids]


def emit_candidate(airflow: Airflow) -> None:
    assets = airflow.call("GET", "assets?name_pattern=car_candidate")["assets"]
    airflow.call("POST", "assets/events", {"asset_id": assets[0]["id"], "extra": {}})


def champion_events(airflow: Airflow) -> list[dict[str, Any]]:
    (asset,) = airflow.call("GET", "assets?name_pattern=car_champion")["assets"]
    path = f"assets/events?asset_id={asset['id']}&order_by=timestamp"
    return [event["extra"] for event in wait_for(lambda: call_unless_queued(airflow, path))["asset_events"]]


def call_unless_queued(airflow: Airflow, path: str) -> Any:
    """Return the response, or None: Airflow responds with 500 while a DAG run that an event created is queued."""
    with suppress(AirflowError):
        return airflow.call("GET", path)


def running_runs(airflow: Airflow) -> set[str]:
    rows = airflow.call("GET", "dags/car_promote/dagRuns?state=running&state=queued")["dag_runs"]
    return {row["dag_run_id"] for row in rows}


def finished_runs(airflow: Airflow, dag_id: str, number: int) -> list[str]:
    """Return the ids of the successful runs if there are this many."""
    rows = airflow.call("GET", f"dags/{dag_id}/dagRuns?state=success")["dag_runs"]
    return [row["dag_run_id"] for row in rows] if len(rows) == number else []


def history(store: Store) -> list[dict[str, Any]]:
    return (read_state(store) or {"history": []})["history"]


def carclf(airflow: Airflow, *arguments: str) -> str:
    token = airflow.session.headers["Authorization"].removeprefix("Bearer ")
    environment = {"USER": "ada", "CARCLF_AIRFLOW_URL": airflow.url, "CARCLF_AIRFLOW_TOKEN": token}
    return CliRunner(env=environment).invoke(app, list(arguments), catch_exceptions=False).output


@pytest.fixture(scope="module")
def unanswered(airflow: Airflow, store: Store) -> Question:
    """A question without a response."""
    wait_for_approval(store, "unanswered", [0, 1, 2, 3])
    emit_candidate(airflow)
    return questions(airflow, "unanswered")[0]


def test_waiting_candidates_are_compared_with_the_champion_of_that_moment(
    airflow: Airflow, store: Store, unanswered: Question
) -> None:
    """They are decided in any order."""
    weak, good = wait_for_approval(store, "weak", range(12)), wait_for_approval(store, "good", [0, 1])
    emit_candidate(airflow)
    emit_candidate(airflow)
    about_weak, about_good = questions(airflow, "weak", "good")
    body = airflow.call("GET", about_good.path)["body"]
    assert "| validation accuracy | 0.9667 (95%: " in body
    assert "| champion | none yet |" in body
    about_good.respond("Approve", "ready", until="announce_champion")
    assert run_facts(store, "weak").decision.response.startswith(
        f"The champion has changed since the request: it is now {good.model.key} of run good")
    about_weak.respond("Approve")
    promoted, outdated = history(store)
    assert (promoted["action"], promoted["run"], promoted["approved_by"], promoted["note"]) == (
        "promoted", "good", "admin", "ready")
    assert "shown_decision" not in promoted
    assert (outdated["action"], outdated["run"], outdated["by"], outdated["shown_champion"]) == (
        "approved", "weak", "admin", None)
    assert outdated["decision"] != outdated["shown_decision"]
    assert outdated["model"] == weak.model.key
    facts = run_facts(store, "weak")
    assert facts.row["decision"] == "rejected"
    assert "decided again when it was approved" in facts.row["text"] + facts.stages[6].text
    # In the other order: the second is compared with the first.
    wait_for_approval(store, "better", [1])
    best = wait_for_approval(store, "best", [])
    emit_candidate(airflow)
    about_better, about_best = questions(airflow, "better", "best")
    about_better.respond("Approve", until="announce_champion")
    about_best.respond("Approve", until="announce_champion")
    assert [event["run"] for event in history(store)[2:]] == ["better", "best"]
    assert history(store)[3]["shown_champion"] == good.model.key
    events = champion_events(airflow)
    assert [(event["sequence"], event["run"], event["by"]) for event in events] == [
        (1, "good", "admin"), (3, "better", "admin"), (4, "best", "admin")]
    assert events[-1]["model_url"] == f"{store.url}/models/{best.model.key}"
    assert events[-1]["val_metric"] == 1
    # The DAG in the documentation, which is scheduled by these events.
    runs = wait_for(lambda: finished_runs(airflow, EXAMPLE, 3))
    assert f"{best.model.key} of best is the champion (promoted by admin), accuracy 1.0000" in [
        DagRun(airflow, EXAMPLE, run).result("announce") for run in runs]


def test_a_rejected_model_is_promoted_only_by_an_override_which_is_announced(
    airflow: Airflow, store: Store, unanswered: Question
) -> None:
    candidate = wait_for_approval(store, "odd", [0])
    emit_candidate(airflow)
    note = "too few\ncars" + "!" * 1000  # Airflow's form would not accept it, but its API does
    questions(airflow, "odd")[0].respond("Reject", note)
    declined = history(store)[-1]
    assert {name: declined[name] for name in ("action", "model", "run", "by", "note")} == {
        "action": "declined", "model": candidate.model.key, "run": "odd", "by": "admin", "note": f"{note[:999]}…"}
    row = run_facts(store, "odd").row
    assert (row["decision"], row["state"]) == ("declined", "done")
    before = len(champion_events(airflow))
    arguments = ["champion", "promote", "--run", "odd", "--store", store.url]
    with pytest.raises(Exception, match="declined by admin"):
        carclf(airflow, *arguments)
    assert "although rejected: declined by admin" in carclf(airflow, *arguments, "--override", "the season ends")
    event = history(store)[-1]
    assert (event["override"], event["approved_by"]) == ("the season ends", "ada")
    assert event["rejection"].startswith("rejected: declined by admin")

    def new_events() -> list[tuple[str, int]]:  # tasks that announce at the same time may repeat an event
        events = champion_events(airflow)[before:]
        return list(dict.fromkeys((event["action"], event["sequence"]) for event in events))
    wait_for(new_events)
    carclf(airflow, "champion", "rollback", "--store", store.url)
    wait_for(lambda: len(new_events()) > 1)
    assert new_events() == [("promoted", len(history(store)) - 1), ("rolled_back", len(history(store)))]


def test_a_run_without_a_new_champion_or_a_candidate_asks_and_announces_nothing(
    airflow: Airflow, unanswered: Question
) -> None:
    wait_for(lambda: running_runs(airflow) <= {unanswered.asking.run_id})
    before = champion_events(airflow)
    run = trigger_run(airflow, "car_promote")
    *_, tasks = run.poll(1)
    assert run.state() == "success"
    states = {task["task_id"]: task["state"] for task in tasks}
    assert states.pop("candidates") == "success"
    assert set(states.values()) == {"skipped"}
    assert champion_events(airflow) == before


def kill_announcement(airflow: Airflow) -> None:
    """Kill the task that announces while it reads the champion, like a crash of its worker."""
    def find() -> list[psutil.Process]:
        children = [child for process in airflow.processes.running.values()
                    for child in psutil.Process(process.pid).children(recursive=True)]
        with suppress(psutil.NoSuchProcess):
            return [child for child in children if {"champion", "current"} <= set(child.cmdline())]
        return []

    reader = wait_for(find)[0]
    for process in (reader.parent(), reader):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def test_a_champion_whose_announcement_was_killed_is_announced_once(airflow: Airflow, store: Store) -> None:
    """The crash is between the champion's pointer and the event."""
    before = champion_events(airflow)
    candidate = build_candidate(store, "killed", [0, 1, 2])
    event = {"model": candidate.model.key, "decision": "d", "evaluation": candidate.evaluation.key, "run": "killed"}
    assert record_promotion(store, event, ensure_state(store, 0.5))
    run = trigger_run(airflow, "car_promote")
    kill_announcement(airflow)
    list(run.poll(1))
    run = trigger_run(airflow, "car_promote")
    list(run.poll(1))
    assert [event["model"] for event in champion_events(airflow)[len(before):]] == [candidate.model.key]


def test_a_new_champion_is_announced_while_a_consumer_is_queued(
    airflow: Airflow, store: Store, unanswered: Question
) -> None:
    """Airflow cannot list the asset's last event then."""
    runs = wait_for(lambda: finished_runs(airflow, EXAMPLE, len(champion_events(airflow))))
    airflow.call("PATCH", f"dags/{EXAMPLE}", {"is_paused": True})
    for run in runs:
        airflow.call("PATCH", f"dags/{EXAMPLE}/dagRuns/{quote(run)}", {"state": "queued"})
    with pytest.raises(AirflowError, match="500"):
        airflow.call("GET", "assets/events")
    roll_back(store, "good")
    sequence = len(history(store))
    for expected in ({"sequence": sequence, "run": "good"}, None):  # once
        run = trigger_run(airflow, "car_promote")
        list(run.poll(1))
        result = run.result("announce_champion") if run.has_result("announce_champion") else None
        assert (result and {name: result[name] for name in ("sequence", "run")}) == expected


def test_a_question_without_a_response_expires(airflow: Airflow, store: Store, unanswered: Question) -> None:
    limit = time.monotonic() + 3600 * TIMEOUT_HOURS + 600
    while run_facts(store, "unanswered").row["decision"] != "expired":
        assert time.monotonic() < limit
        time.sleep(2)
    (expired,) = [event for event in history(store) if event["action"] == "expired"]
    assert (expired["run"], expired["note"]) == ("unanswered", f"no response within {TIMEOUT_HOURS:g} hours")
    assert "by" not in expired
