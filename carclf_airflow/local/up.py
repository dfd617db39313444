"""``make up``: Airflow on this machine against the real Kaggle, with the user's credentials."""

import os
import shlex
import subprocess
import sys

from carclf.services.storage import init_store
from carclf_airflow.ids import RETRAIN_DAG
from carclf_airflow.local.airflow_server import Airflow
from carclf_airflow.local.processes import ProcessGroup
from carclf_airflow.local.session import (
    absolute_source,
    lock_folder,
    print_url,
    stage_environment,
    state_folder,
    store_name,
    wait_until_interrupted,
)


def run_up(source: str) -> int:
    """Check the machine and the credentials, start Airflow, and stay up; return the exit status."""
    home = state_folder() / "up"
    # Each source has its own champion and threshold.
    store = os.environ.get("CARCLF_STORE") or str(home / store_name(source and absolute_source(source)))
    # Later, a missing store is an error.
    if not os.environ.get("CARCLF_STORE") and (source or not (home / "airflow").exists()):
        init_store(store)
    environment = stage_environment(store)
    if source:
        settings = [*shlex.split(environment.get("CARCLF_SETTINGS", "")), f"data.source={absolute_source(source)}"]
        environment["CARCLF_SETTINGS"] = shlex.join(settings)
    doctor = subprocess.run([sys.executable, "-m", "carclf", "doctor"], env=environment, check=False)
    if doctor.returncode:
        print("Fix what is MISSING above, then run make up again.", file=sys.stderr)
        return doctor.returncode
    with lock_folder(home), ProcessGroup(home / "logs") as processes:
        airflow = Airflow(home / "airflow", processes, environment)
        airflow.start()
        airflow.wait_for_dag(RETRAIN_DAG)
        is_paused = airflow.call("GET", f"dags/{RETRAIN_DAG}")["is_paused"]
        print(f"The DAG {RETRAIN_DAG} is paused: unpause it to run by its schedule, or trigger it." if is_paused
              else f"The DAG {RETRAIN_DAG} runs by its schedule.")
        print_url(airflow)
        wait_until_interrupted(processes)
    return 0
