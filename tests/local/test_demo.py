"""``make demo`` as its user runs it: interrupted, to the end, again, on a folder of one's own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from carclf.demo.render import render_competition

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(900)]

STAGES = ["download", "validate", "split", "train_head", "fine_tune", "evaluate", "promote", "submit", "score"]


def start(state: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CARCLF", "KAGGLE"))}
    return subprocess.Popen(
        [sys.executable, "-m", "local", "demo", "--exit", *arguments], text=True, stdout=subprocess.PIPE,
        env=environment | {"CARCLF_LOCAL": str(state), "CARCLF_CACHE": str(state / "cache")},
    )


def finish(state: Path, *arguments: str) -> tuple[int, str, dict[str, object]]:
    process = start(state, *arguments)
    output, _ = process.communicate()
    return process.returncode, output, json.loads(output.splitlines()[-1])


def processes_of(state: Path) -> list[str]:
    """The command lines of processes whose environment names this state folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"CARCLF_LOCAL={state}".encode() in (path / "environ").read_bytes().split(b"\0"):
                found.append((path / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # it has just ended, or is another user's
    return found


@pytest.fixture(scope="module")
def state(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("local")


def test_ctrl_c_in_the_middle_of_training_leaves_no_process(state):
    process = start(state)
    for line in process.stdout:
        if line.startswith("train_head"):
            break
    process.send_signal(signal.SIGINT)
    assert process.wait() == 1
    assert processes_of(state) == []


def test_the_demo_goes_on_after_an_interruption_and_ends_with_a_summary(state):
    status, output, summary = finish(state)
    assert status == 0, output
    assert {name: task["state"] for name, task in summary["tasks"].items()} == dict.fromkeys(STAGES, "success")
    assert summary["state"] == "success" and summary["decision"] == "promoted"
    assert summary["val_accuracy"] >= summary["threshold"] == 0.6
    assert summary["public_score"] > 0.6
    sample = pd.read_csv(state / "demo" / "rendered-v2" / "sample-submission.csv")
    assert list(pd.read_csv(summary["submission"])["Id"]) == list(sample["Id"])
    assert processes_of(state) == []


def test_an_unchanged_run_reuses_every_artifact_and_says_so(state):
    status, output, _ = finish(state)
    assert status == 0, output
    assert [line.split()[0] for line in output.splitlines() if " reused, " in line] == STAGES
    newest = max((state / "airflow/logs/dag_id=car_retrain").iterdir(), key=lambda path: path.stat().st_mtime)
    for stage in STAGES:
        logs = [path.read_text() for path in newest.glob(f"task_id={stage}/attempt=*.log")]
        assert any("reused" in text for text in logs), stage


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
