"""``make demo EXPERIMENT=file``: the experiment's name, and an experiment in a real Airflow with a failing recipe."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from carclf.experiments.plan import EXPERIMENT_NAME
from carclf_airflow.local.experiment_run import experiment_name

FORM = {
    "recipe": "demo", "settings": "fine_tune.epochs=0 head.epochs=3 gate.threshold=0.2 gate.min_recall=0 "
                                  "gate.max_calibration_error=1",
    "recipes": ["tuned fine_tune.epochs=4", "lost model.weights=champion"], "seeds": "0,1", "rungs": "1",
    "promote": True,
}


@pytest.mark.parametrize(("form", "name"), [
    ("docs/experiments/ladder-cars10.json", "ladder-cars10"), ("größe 1.json", "gr-e-1"), ("_x.json", "x"),
    ("\u8eca.json", "experiment"), ('{"recipe": "demo"}', "experiment"), (f"{'a' * 200}.json", "a" * 80),
])
def test_an_experiment_gets_a_valid_name_from_any_file_name(form: str, name: str) -> None:
    assert experiment_name(form) == name
    assert EXPERIMENT_NAME.fullmatch(f"{name}-20261125T151449")


def start(folder: Path, form: dict[str, object]) -> subprocess.CompletedProcess[str]:
    path = folder / "small.json"
    path.write_text(json.dumps(form))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CARCLF", "KAGGLE"))}
    environment |= {"CARCLF_LOCAL_FOLDER": str(folder / "local"), "CARCLF_CACHE": str(folder / "cache"),
                    "CARCLF_PORT": "0"}
    command = [sys.executable, "-m", "carclf_airflow.local", "demo", "--exit", "--experiment", str(path)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.dags
@pytest.mark.timeout(900)
def test_a_failing_recipe_does_not_stop_the_others_and_the_gate_judges_the_winner(tmp_path: Path) -> None:
    done = start(tmp_path, FORM)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    states = {name: task["state"] for name, task in summary["tasks"].items()}
    failed = ["rung_1[2]", "rung_1[5]"]  # the last of three recipes, with each of two seeds
    assert sorted(name for name, state in states.items() if state == "failed") == failed
    assert sorted(name for name, state in states.items() if state == "skipped") == ["rung_2", "rung_3"]
    assert sorted(name for name in states if name.startswith("finish")) == [f"finish[{number}]" for number in range(4)]
    assert list(summary["summaries"]) == ["baseline", "tuned"]
    assert summary["summaries"]["tuned"].startswith("better by ")
    assert done.stdout.count("    carclf: ") == 2
    store = Path(summary["store"])
    outcome = json.loads((store / "experiments/small/outcome.json").read_text())
    assert outcome["winner"] in ("small-tuned-s0", "small-tuned-s1")
    assert [row["run"] for row in outcome["failed"]] == ["small-lost-s0", "small-lost-s1"]
    [promotion] = json.loads((store / "champion.json").read_text())["history"]
    assert promotion["run"] == outcome["winner"]
    assert "approved_by" not in promotion  # gate.approval is off: nobody was asked


@pytest.mark.dags
@pytest.mark.timeout(900)
def test_an_invalid_form_is_reported_before_anything_starts(tmp_path: Path) -> None:
    done = start(tmp_path, FORM | {"recipes": ["tuned fine_tune.epoch=4"]})
    assert done.returncode == 78
    assert "tuned" in done.stderr
    assert "'fine_tune.epoch'" in done.stderr
    assert "Starting Airflow" not in done.stdout
