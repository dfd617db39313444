"""``make demo EXPERIMENT=file``: an experiment in a real Airflow, one of its recipes failing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(900)]

FORM = {
    "recipe": "demo", "settings": "fine_tune.epochs=0 head.epochs=3 gate.threshold=0.2 gate.min_recall=0 "
                                  "gate.max_calibration_error=1",
    "recipes": ["tuned fine_tune.epochs=4", "lost model.weights=champion"], "seeds": "0,1", "rungs": "1",
    "promote": True,
}


def start(folder: Path, form: dict[str, object]) -> subprocess.CompletedProcess[str]:
    (folder / "small.json").write_text(json.dumps(form))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CARCLF", "KAGGLE"))}
    environment |= {"CARCLF_LOCAL_FOLDER": str(folder / "local"), "CARCLF_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "carclf_airflow.local", "demo", "--exit", "--experiment", str(folder / "small.json")]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_the_members_that_fail_stop_nobody_and_the_winner_goes_through_the_gate(tmp_path):
    done = start(tmp_path, FORM)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    states = {name: task["state"] for name, task in summary["tasks"].items()}
    lost = ["rung_1[2]", "rung_1[5]"]  # the last recipe of three, with each of two seeds
    assert sorted(name for name, state in states.items() if state == "failed") == lost
    assert sorted(name for name, state in states.items() if state == "skipped") == ["rung_2", "rung_3"]
    assert sorted(name for name in states if name.startswith("finish")) == [f"finish[{number}]" for number in range(4)]
    assert list(summary["found"]) == ["baseline", "tuned"]
    assert summary["found"]["tuned"].startswith("better by ")
    assert done.stdout.count("the store has none to go on from. Run once with 'imagenet'") == 2
    store = Path(summary["store"])
    found = json.loads((store / "experiments/small/outcome.json").read_text())
    assert found["winner"] in ("small-tuned-s0", "small-tuned-s1")
    assert [row["run"] for row in found["failed"]] == ["small-lost-s0", "small-lost-s1"]
    [crowned] = json.loads((store / "champion.json").read_text())["history"]
    assert (crowned["run"], crowned["approved_by"]) == (found["winner"], "admin")


def test_a_mistake_in_the_form_is_told_before_anything_is_started(tmp_path):
    done = start(tmp_path, FORM | {"recipes": ["tuned fine_tune.epoch=4"]})
    assert done.returncode == 78
    assert "Recipe tuned: Unknown configuration key 'fine_tune.epoch'" in done.stderr
    assert "Starting Airflow" not in done.stdout
