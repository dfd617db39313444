"""``make demo`` as its user runs it: interrupted, to the end, again, on a folder of one's own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import psutil
import pytest

from carclf.demo.render import render_competition

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(900)]

STAGES = ["download", "validate", "split", "train_head", "fine_tune", "evaluate", "promote", "submit", "score"]


def start(state: Path, *arguments: str, **options: object) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CARCLF", "KAGGLE"))}
    return subprocess.Popen(
        [sys.executable, "-m", "local", "demo", "--exit", *arguments], text=True, stdout=subprocess.PIPE,
        env=environment | {"CARCLF_LOCAL": str(state), "CARCLF_CACHE": str(state / "cache")},
        **options,
    )


def finish(state: Path, *arguments: str) -> tuple[int, str, dict[str, object]]:
    process = start(state, *arguments)
    output, _ = process.communicate()
    return process.returncode, output, json.loads(output.splitlines()[-1])


def running() -> set[int]:
    """Every process of an Airflow or a carclf: environments and titles can be overwritten, so all of them count."""
    found = psutil.process_iter(["pid", "cmdline"])
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
    assert {name: task["state"] for name, task in summary["tasks"].items()} == dict.fromkeys(STAGES, "success")
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
