"""A step of an experiment as a child process of an Airflow task."""

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from carclf_task import airflow_address, child_environment, require_done, run_child, run_id_of


def plan_arguments(params: Mapping[str, Any]) -> list[str]:
    """``carclf experiment plan``'s arguments from the trigger form."""
    tried = [part for text in params["recipes"] for part in ("--try", text)]
    settings = [part for text in (params["settings"] or "").split() for part in ("--set", text)]
    return ["--recipe", params["recipe"], *tried, *settings, "--seeds", params["seeds"], "--folds",
            str(params["folds"]), "--rungs", params["rungs"] or "", "--keep", str(params["keep"]),
            "--budget-minutes", str(params["budget_minutes"])]


def run_experiment(step: str, context: Mapping[str, Any], *arguments: str) -> Any:
    """Run a step of ``carclf experiment`` in a child process and return its result, small enough for XCom."""
    name = run_id_of(context["dag_run"].run_id)
    with tempfile.TemporaryDirectory(prefix="carclf-") as folder:
        path = Path(folder) / "result.json"
        command = [sys.executable, "-u", "-m", "carclf", "experiment", step, "--name", name,
                   "--store", os.environ.get("CARCLF_STORE", "store"), *arguments, "--result", str(path)]
        # Only the download needs Kaggle's key.
        allowed = child_environment("download" if step == "prepare" else "split")
        status, reason = run_child(command, allowed | airflow_address(context) | {"TMPDIR": folder})
        require_done(step, status, reason)
        return json.loads(path.read_text())
