"""``make demo`` as its user runs it: interrupted, to the end, again, on a folder of one's own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import jwt
import pandas as pd
import psutil
import pytest
import requests

from carclf.demo.rendering import render_competition

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(900)]

STAGES = ["download", "validate", "split", "train_head", "fine_tune", "evaluate", "promote", "submit", "score"]
ENDS = dict.fromkeys(STAGES, "success") | dict.fromkeys(["approval.ask", "approval.promote"], "skipped")


def start(state: Path, *arguments: str, settings: Mapping[str, str] = {}, **options: object) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CARCLF", "KAGGLE"))}
    environment |= settings
    return subprocess.Popen(
        [sys.executable, "-m", "carclf_airflow.local", "demo", "--exit", *arguments], text=True, stdout=subprocess.PIPE,
        env=environment | {"CARCLF_LOCAL_FOLDER": str(state), "CARCLF_CACHE": str(state / "cache")},
        **options,
    )


def finish(state: Path, *arguments: str) -> tuple[int, str, dict[str, object]]:
    process = start(state, *arguments)
    output, _ = process.communicate()
    return process.returncode, output, json.loads(output.splitlines()[-1])


def running() -> set[int]:
    """This user's processes of an Airflow or a carclf: environments and titles can be overwritten, so all count."""
    found = (one for one in psutil.process_iter(["pid", "cmdline", "uids"]) if one.info["uids"].real == os.getuid())
    return {one.pid for one in found if any("airflow" in part or "carclf" in part for part in one.info["cmdline"] or [])
            and "pytest" not in " ".join(one.info["cmdline"])}


@pytest.fixture(scope="module")
def state(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("local")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 1), (signal.SIGHUP, 129)])
def test_ctrl_c_or_a_closed_terminal_in_the_middle_of_training_leaves_no_process(state, number, status):
    before = running()
    process = start(state)
    for line in process.stdout:
        if line.startswith("train_head"):
            break
    process.send_signal(number)
    assert process.wait() == status
    assert running() <= before


def test_the_demo_goes_on_after_an_interruption_and_ends_with_a_summary(state):
    before = running()
    status, output, summary = finish(state)
    assert status == 0, output
    assert {name: task["state"] for name, task in summary["tasks"].items()} == ENDS
    assert summary["state"] == "success" and summary["decision"] == "promoted"
    assert summary["val_accuracy"] >= summary["threshold"] == 0.6
    assert summary["public_score"] > 0.6
    sample = pd.read_csv(state / "demo" / "server" / "rendered-v2" / "sample-submission.csv")
    assert list(pd.read_csv(summary["submission"])["Id"]) == list(sample["Id"])
    assert running() <= before


def test_an_unchanged_run_reuses_every_artifact_and_says_so(state):
    status, output, _ = finish(state)
    assert status == 0, output
    assert [line.split()[0] for line in output.splitlines() if " reused, " in line] == STAGES
    newest = max((state / "demo/airflow/logs/dag_id=car_retrain").iterdir(), key=lambda path: path.stat().st_mtime)
    for stage in STAGES:
        logs = [path.read_text() for path in newest.glob(f"task_id={stage}/attempt=*.log")]
        assert any("reused" in text for text in logs), stage


@pytest.mark.parametrize(("choice", "decision"), [("Reject", "rejected"), ("Approve", "promoted")])
def test_a_run_that_needs_approval_waits_and_does_as_it_is_told(tmp_path_factory, choice, decision):
    state = tmp_path_factory.getbasetemp() / "approval"  # what the first run made, the second reuses
    process = start(state, settings={"CARCLF_SETTINGS": "gate.approval=required"})
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "by REST: PATCH " in line:
            break
    address = lines[-1].split()[4]
    time.sleep(3)  # an answer within about a second of the question can be lost
    answer(state, address, choice)
    rest, _ = process.communicate()
    summary = json.loads(rest.splitlines()[-1])
    assert (process.returncode, summary["state"], summary["decision"]) == (0, "success", decision)
    told = "approved by admin" if choice == "Approve" else "rejected by admin: nothing is promoted or submitted"
    assert any(line.startswith("approval.ask") and line.rstrip().endswith(told) for line in rest.splitlines())
    expected = "success" if choice == "Approve" else "skipped"
    assert {summary["tasks"][name]["state"] for name in ("approval.promote", "submit", "score")} == {expected}
    champion = json.loads((state / "demo" / "store-demo" / "champion.json").read_text())
    assert [event.get("approved_by") for event in champion["history"][:1]] == (["admin"] if choice == "Approve" else [])


def answer(state: Path, address: str, choice: str) -> None:
    url = address.partition("/api/")[0]
    password = json.loads((state / "demo" / "airflow" / "passwords.json").read_text())["admin"]
    login = requests.post(f"{url}/auth/token", json={"username": "admin", "password": password}, timeout=60).json()
    body = {"chosen_options": [choice], "params_input": {}}
    token = login["access_token"]
    looks_only, admin = ({"Authorization": f"Bearer {one}"} for one in (as_viewer(state, token), token))
    assert requests.patch(address, json=body, timeout=60, headers=looks_only).status_code == 403
    asked = requests.get(address, timeout=60, headers=looks_only)
    assert (asked.status_code, asked.json()["response_received"]) == (200, False)
    requests.patch(address, json=body, timeout=60, headers=admin).raise_for_status()


def as_viewer(state: Path, token: str) -> str:
    """The login of somebody who may look at the DAGs and no more, as Airflow would sign it."""
    key = json.loads((state / "demo" / "airflow" / "secrets.json").read_text())["jwt"]
    head, claims = jwt.get_unverified_header(token), jwt.decode(token, options={"verify_signature": False})
    return jwt.encode(claims | {"sub": "guest", "role": "viewer"}, key, algorithm=head["alg"], headers=head)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "nope"], "Unknown recipe 'nope'; the recipes are"),
        (["--weights", "/nowhere/w.h5"], "WEIGHTS=/nowhere/w.h5: there is no such file"),
        (["--data", "/nowhere"], "/nowhere has no train/<class number>/*.jpg"),
        (["--holdout", "2"], "The holdout share is 2.0; it must lie between 0 and 1"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_airflow_starts(tmp_path, arguments, message):
    process = start(tmp_path, *arguments, stderr=subprocess.PIPE)
    output, errors = process.communicate()
    assert process.returncode in (65, 78) and "Starting Airflow" not in output
    assert message in errors and len(errors.splitlines()) == 1


@pytest.mark.parametrize("arguments", [[], ["--holdout", "0.2"]], ids=["no truth", "holdout"])
def test_a_folder_of_ones_own_is_graded_by_what_truth_there_is(tmp_path, arguments):
    render_competition(tmp_path / "cars")
    (tmp_path / "cars" / "truth.csv").unlink()
    given = ["--data", str(tmp_path / "cars"), "--recipe", "demo", *arguments]
    status, output, summary = finish(tmp_path / "local", *given)
    assert status == 0, output
    if arguments:
        assert 0.5 < summary["public_score"] <= 1
    else:
        assert summary["public_score"] is None
        assert "none came" in output
