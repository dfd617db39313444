"""``make demo`` as a user runs it: interrupted, to the end, again, on other data."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jwt
import pandas as pd
import psutil
import pytest
import requests

from carclf.demo.rendering import render_competition
from carclf.stages.chain import STAGES

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(900)]

RUN_STAGES = [stage for stage in STAGES if stage != "refit"]
TASK_STATES = dict.fromkeys(RUN_STAGES, "success") | dict.fromkeys(
    ["request_approval", "refit"], "skipped") | {"announce_champion": "success"}
PR_SET_CHILD_SUBREAPER = 36


def start(
    state: Path, *arguments: str, settings: Mapping[str, str] | None = None, stderr: int | None = None
) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CARCLF", "KAGGLE"))}
    environment |= {"CARCLF_LOCAL_FOLDER": str(state), "CARCLF_CACHE": str(state / "cache"), "CARCLF_PORT": "0"}
    environment |= settings or {}
    command = [sys.executable, "-m", "carclf_airflow.local", "demo", "--exit", *arguments]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=stderr, env=environment)


def finish(state: Path, *arguments: str) -> tuple[int, str, dict[str, Any]]:
    process = start(state, *arguments)
    output, _ = process.communicate()
    return process.returncode, output, json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module", autouse=True)
def adopt_orphans() -> Iterator[None]:
    """Make the kernel give orphaned descendants to this process, so that the tests find all that they started."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    yield
    prctl(PR_SET_CHILD_SUBREAPER, 0)


def find_descendants() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True) if is_alive(process)}


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("local")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 1), (signal.SIGHUP, 129)])
def test_an_interruption_during_training_leaves_no_process(state: Path, number: signal.Signals, status: int) -> None:
    before = find_descendants()
    process = start(state)
    assert process.stdout is not None
    assert any(line.startswith("train_head") for line in process.stdout)
    process.send_signal(number)
    assert process.wait() == status
    assert find_descendants() <= before


def test_the_demo_resumes_after_an_interruption_and_prints_a_summary(state: Path) -> None:
    before = find_descendants()
    status, output, summary = finish(state)
    assert status == 0, output
    assert {name: task["state"] for name, task in summary["tasks"].items()} == TASK_STATES
    assert (summary["state"], summary["decision"]) == ("success", "promoted")
    assert summary["val_accuracy"] >= summary["threshold"] == 0.6
    assert summary["public_score"] > 0.6
    sample = pd.read_csv(state / "demo" / "server" / "rendered-v2" / "sample-submission.csv")
    assert list(pd.read_csv(summary["submission"])["Id"]) == list(sample["Id"])
    assert find_descendants() <= before
    paths = [path for path in (state / "demo").rglob("*") if not path.is_symlink()]
    assert {(path.is_dir(), oct(path.stat().st_mode)[-3:]) for path in paths} == {(True, "700"), (False, "600")}


def test_an_unchanged_run_reuses_every_artifact(state: Path) -> None:
    status, output, _ = finish(state)
    assert status == 0, output
    assert [line.split()[0] for line in output.splitlines() if " reused, " in line] == RUN_STAGES
    newest = max((state / "demo/airflow/logs/dag_id=car_retrain").iterdir(), key=lambda path: path.stat().st_mtime)
    for stage in RUN_STAGES:
        logs = [path.read_text() for path in newest.glob(f"task_id={stage}/attempt=*.log")]
        assert any("reused" in text for text in logs), stage


@pytest.mark.dags
@pytest.mark.parametrize(("choice", "decision", "state_after", "seed"), [
    ("Reject", "declined", "skipped", 1), ("Approve", "promoted", "success", 2),  # a declined model is not asked about
])
def test_a_candidate_waits_for_approval(
    tmp_path_factory: pytest.TempPathFactory, choice: str, decision: str, state_after: str, seed: int
) -> None:
    state = tmp_path_factory.getbasetemp() / "approval"
    process = start(state, settings={"CARCLF_SETTINGS": f"gate.approval=required seed={seed}"})
    assert process.stdout is not None
    question = next(line for line in process.stdout if "by REST: PATCH " in line)
    time.sleep(3)  # Airflow can lose a response within about a second of the question
    respond(state, question.split()[4], choice)
    output, _ = process.communicate()
    summary = json.loads(output.splitlines()[-1])
    assert (process.returncode, summary["state"], summary["decision"]) == (0, "success", decision)
    (ask,) = [line for line in output.splitlines() if line.startswith("ask ")]
    assert ("approved" if choice == "Approve" else "declined") + " by admin" in ask
    assert {summary["tasks"][name]["state"] for name in ("submit", "score")} == {state_after}
    assert summary["tasks"]["promote"]["state"] == "success"
    champion = json.loads((state / "demo" / "store-demo" / "champion.json").read_text())
    approved_by = [event["approved_by"] for event in champion["history"] if event["action"] == "promoted"]
    rows = json.loads((state / "demo" / "store-demo" / "runs.json").read_text())["rows"].values()
    assert max(rows, key=lambda row: row["created"])["decision"] == decision
    assert approved_by == (["admin"] if choice == "Approve" else [])


def respond(state: Path, address: str, choice: str) -> None:
    """Respond to the question as admin; a viewer may read it but not respond."""
    url = address.partition("/api/")[0]
    password = json.loads((state / "demo" / "airflow" / "passwords.json").read_text())["admin"]
    login = requests.post(f"{url}/auth/token", json={"username": "admin", "password": password}, timeout=60).json()
    token = login["access_token"]
    viewer = {"Authorization": f"Bearer {as_viewer(state, token)}"}
    admin = {"Authorization": f"Bearer {token}"}
    body = {"chosen_options": [choice], "params_input": {}}
    assert requests.patch(address, json=body, timeout=60, headers=viewer).status_code == 403
    details = requests.get(address, timeout=60, headers=viewer)
    assert (details.status_code, details.json()["response_received"]) == (200, False)
    requests.patch(address, json=body, timeout=60, headers=admin).raise_for_status()


def as_viewer(state: Path, token: str) -> str:
    """Return a viewer's token, signed like Airflow's."""
    key = json.loads((state / "demo" / "airflow" / "secrets.json").read_text())["jwt"]
    head, claims = jwt.get_unverified_header(token), jwt.decode(token, options={"verify_signature": False})
    return jwt.encode(claims | {"sub": "guest", "role": "viewer"}, key, algorithm=head["alg"], headers=head)


@pytest.mark.parametrize(("arguments", "expected"), [
    (["--recipe", "nope"], "'nope'"),
    (["--weights", "/nowhere/w.h5"], "WEIGHTS=/nowhere/w.h5"),
    (["--data", "/nowhere"], "/nowhere"),
    (["--data", "kaggle://owner/cars"], "make up SOURCE=kaggle://owner/cars"),
    (["--truth", "/nowhere.csv"], "TRUTH=/nowhere.csv"),
    (["--data", "{folder}/cars.zip"], "cars.zip is not a complete zip file"),
    (["--holdout", "2"], "holdout 2.0"),
    (["--holdout", "x"], "HOLDOUT=x"),
])
def test_an_invalid_option_is_reported_in_one_line_before_airflow_starts(
    tmp_path: Path, arguments: list[str], expected: str
) -> None:
    (tmp_path / "cars.zip").write_bytes(b"PK")
    arguments = [argument.replace("{folder}", str(tmp_path)) for argument in arguments]
    process = start(tmp_path / "local", *arguments, stderr=subprocess.PIPE)
    output, errors = process.communicate()
    assert process.returncode in (65, 78)
    assert "Starting Airflow" not in output
    assert expected in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.dags
def test_data_without_truth_get_no_public_score(tmp_path: Path) -> None:
    render_competition(tmp_path / "cars")
    (tmp_path / "cars" / "truth.csv").unlink()
    status, output, summary = finish(tmp_path / "local", "--data", str(tmp_path / "cars"), "--recipe", "demo")
    assert status == 0, output
    assert summary["public_score"] is None
