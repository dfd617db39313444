"""Run Python code with Airflow in a process of its own: Airflow reads its environment when it is imported."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from carclf.services.storage import init_store

ROOT = Path(__file__).resolve().parents[1]


def airflow_environment(home: Path, **settings: str) -> dict[str, str]:
    """Return this process's environment with an Airflow in ``home`` and no settings of the user's."""
    prefixes = ("AIRFLOW", "CARCLF", "KAGGLE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    return environment | {
        "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "PYTHONPATH": f"{ROOT}:{ROOT / 'dags'}",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"), "CARCLF_STORE": init_store(home / "store").url,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/a.db",
    } | settings


def run_python(code: str, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code that must succeed."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), *arguments], env=environment, text=True,
                          capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done


def printed_json(code: str, environment: dict[str, str], *arguments: str) -> Any:
    """Run code that must succeed; return the last line that it prints."""
    return json.loads(run_python(code, environment, *arguments).stdout.splitlines()[-1])
