"""Measure the processor time of a local Airflow in which no task runs, with Airflow's intervals and with carclf's.

python -m benchmarks.airflow_idle [--quick]

Each Airflow is started, settles, and is then left alone. A training on the same machine has this much less of it.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import psutil

from carclf_airflow.local.airflow_server import Airflow
from carclf_airflow.local.processes import ProcessGroup

AIRFLOWS_INTERVALS = {
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30", "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "1",
}


def main() -> None:
    """Print the percentage of one core that each component uses, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="measure for 10 s only")
    seconds = 10 if parser.parse_args().quick else 180
    for name, intervals in (("Airflow's intervals", AIRFLOWS_INTERVALS), ("carclf's intervals", {})):
        with tempfile.TemporaryDirectory() as folder, ProcessGroup(Path(folder) / "logs") as processes:
            airflow = Airflow(Path(folder) / "airflow", processes, dict(os.environ))
            airflow.environment |= intervals
            airflow.start()
            airflow.wait_for_dag("car_retrain")
            time.sleep(seconds / 3)
            before = cpu_seconds_by_component(processes)
            time.sleep(seconds)
            after = cpu_seconds_by_component(processes)
            cores = {component: round(100 * (after[component] - before[component]) / seconds, 1) for component in after}
        print(json.dumps({"intervals": name, "percent_of_a_core": cores | {"all": round(sum(cores.values()), 1)}}))


def cpu_seconds_by_component(processes: ProcessGroup) -> dict[str, float]:
    """Return the processor time of each component and its children, those that have exited included."""
    return {name: sum(map(_cpu_seconds, [root := psutil.Process(process.pid), *root.children(recursive=True)]))
            for name, process in processes.running.items()}


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


if __name__ == "__main__":
    main()
