"""Every process that loads TensorFlow has oneDNN's kernels on, whatever TensorFlow's default on its CPU is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import SMALL

from carclf.config import load_config
from carclf.runs.run import Run
from carclf.services.storage import Store

VARIABLE = "TF_ENABLE_ONEDNN_OPTS"
# Python imports this module at its start. It records the variable when TensorFlow is imported, and with STOP it ends
# the process then.
RECORDER = f"""
import os, sys

class Recorder:
    def find_spec(self, name, path=None, target=None):
        if name == "tensorflow":
            with open(os.environ["IMPORTS"], "a") as file:
                print(os.environ.get("{VARIABLE}", "unset"), file=file)
            if "STOP" in os.environ:
                os._exit(0)

sys.meta_path.insert(0, Recorder())
"""
RUNTIMES = ("keras", "saved_model")  # each one is loaded in a process of its own


@pytest.fixture
def imports(tmp_path: Path) -> Path:
    """The file with the variable's value in each process that imported TensorFlow."""
    folder = tmp_path / "startup"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(RECORDER)
    return tmp_path / "imports.txt"


def carclf(imports: Path, store: Store, *arguments: str, **variables: str) -> list[str]:
    """Run a command in a new process; return the variable's value in each process that imported TensorFlow."""
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    environment |= {"PYTHONPATH": str(imports.parent / "startup"), "IMPORTS": str(imports)} | variables
    command = [sys.executable, "-m", "carclf", *arguments, "--store", str(store.url)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return imports.read_text().split()


@pytest.mark.usefixtures("kaggle_environment")
def test_a_stage_computes_with_onednn_and_records_it(store_copy: Store, imports: Path) -> None:
    run = Run.start_or_resume("other-head", store_copy, "demo", load_config("demo", SMALL | {"seed": 7}))
    for stage in ("download", "validate", "split"):
        run.run_stage(stage)
    assert carclf(imports, store_copy, "train_head", "--run", "other-head") == ["1"]
    result = Run.load("other-head", store_copy).record["stages"]["train_head"]
    assert result["machine"]["environment"][VARIABLE] == "1"


@pytest.mark.acceptance  # loads TensorFlow in four processes
def test_predictions_and_the_runtimes_of_an_export_use_onednn(
    store: Store, cars: tuple[Path, object], imports: Path, tmp_path: Path
) -> None:
    image = next(iter(sorted(cars[0].rglob("*.jpg"))))
    assert carclf(imports, store, "predict", str(image)) == ["1"]
    imports.unlink()
    values = carclf(imports, store, "export", "--to", str(tmp_path / "out"), "--format", ",".join(RUNTIMES))
    assert values == ["1"] * (1 + len(RUNTIMES))


def test_the_users_value_wins(store: Store, cars: tuple[Path, object], imports: Path) -> None:
    image = next(iter(sorted(cars[0].rglob("*.jpg"))))
    assert carclf(imports, store, "predict", str(image), STOP="1", **{VARIABLE: "0"}) == ["0"]
