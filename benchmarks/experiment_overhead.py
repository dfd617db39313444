"""The overhead of Airflow: an experiment of 24 mapped trainings on 2 and on 4 local workers, against the ideal.

python -m benchmarks.experiment_overhead [--quick]

Each number of workers gets a real Airflow (SQLite, LocalExecutor) and a store. Each training fits a head
to the demo's rendered cars with a different weight decay: no model is reused; data, split and features are shared.
``work`` is the time of the training stages according to the run records, and ``ideal`` is work divided by the number of
workers. The overhead per training is the rest of the workers' time: in its task (processes and imports) and between
tasks (Airflow, and idle workers at the end). With fewer cores than workers the work itself takes longer.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from carclf.experiments.trainings import TRAINING_STAGES
from carclf.services.storage import init_store
from carclf_airflow.ids import EXPERIMENTS_DAG
from carclf_airflow.local.airflow_server import REPOSITORY_ROOT, Airflow
from carclf_airflow.local.dag_run import DagRun
from carclf_airflow.local.demo_server import start_demo_server
from carclf_airflow.local.experiment_run import run_experiment
from carclf_airflow.local.processes import ProcessGroup


def form(num_recipes: int) -> dict[str, Any]:
    """Return the form of an experiment: the baseline and this many recipes, with two seeds."""
    return {"recipe": "demo", "settings": "head.epochs=2 fine_tune.epochs=0", "seeds": "0,1",
            "recipes": [f"decay-{number} head.weight_decay={number}e-3" for number in range(2, num_recipes + 2)]}


def measure(folder: Path, num_workers: int, num_recipes: int) -> dict[str, float]:
    """Run one experiment in its own Airflow and return the metrics in seconds."""
    store = folder / "store"
    prefixes = ("AIRFLOW", "CARCLF", "KAGGLE")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    environment = inherited | {
        "CARCLF_STORE": init_store(store).url, "CARCLF_CACHE": str(folder / "cache"),
        "PYTHONPATH": str(REPOSITORY_ROOT), "CARCLF_SETTINGS": "data.source=demo-cars", "CARCLF_SCHEDULE": "none",
    }
    with ProcessGroup(folder / "logs") as processes:
        environment |= start_demo_server(processes, folder.parent / "server", environment)
        airflow = Airflow(folder / "airflow", processes, environment, num_workers=num_workers)
        airflow.start()
        summary = run_experiment(airflow, form(num_recipes), "overhead")
        instances = DagRun(airflow, EXPERIMENTS_DAG, "overhead").task_instances()
        tasks = [task for task in instances if task["task_id"] == "finish"]
    if summary["state"] != "success" or any(task["state"] != "success" for task in tasks):
        sys.exit(f"The experiment ended with the state {summary['state']}. The lines above show why.")
    return metrics(tasks, store, num_workers)


def metrics(tasks: list[dict[str, Any]], store: Path, num_workers: int) -> dict[str, float]:
    """Return the metrics of Airflow's task instances and the run records; ``*_each`` are per training."""
    started = [datetime.fromisoformat(task["start_date"]) for task in tasks]
    ended = [datetime.fromisoformat(task["end_date"]) for task in tasks]
    queued = [datetime.fromisoformat(task["queued_when"]) for task in tasks]
    wall = (max(ended) - min(queued)).total_seconds()
    busy = sum((end - start).total_seconds() for start, end in zip(started, ended, strict=True))
    records = [json.loads(path.read_text())["stages"] for path in store.glob("runs/*.json")]
    work = sum(float(stages[name]["seconds"]) for stages in records for name in TRAINING_STAGES)
    num_trainings = len(tasks)
    ideal = work / num_workers
    return {
        "workers": num_workers,
        "trainings": num_trainings,
        "wall": round(wall, 1),
        "ideal": round(ideal, 1),
        "wall_vs_ideal": round(wall / ideal, 2),
        "work_each": round(work / num_trainings, 2),
        "overhead_each": round((wall * num_workers - work) / num_trainings, 2),
        "in_task_each": round((busy - work) / num_trainings, 2),
        "between_each": round((wall * num_workers - busy) / num_trainings, 2),
    }


def main() -> None:
    """Print a row for each number of workers, and all of them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="six trainings on two workers")
    quick = parser.parse_args().quick
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # otherwise Airflow would keep running
    rows = []
    with tempfile.TemporaryDirectory(prefix="carclf-bench-") as folder:
        for num_workers in (2,) if quick else (2, 4):
            work_folder = Path(folder) / str(num_workers)
            work_folder.mkdir()
            rows.append(measure(work_folder, num_workers, 2 if quick else 11))
    print(*(f"{name:>14}" for name in rows[0]))
    for row in rows:
        print(*(f"{value:>14}" for value in row.values()))
    print(json.dumps({"cores": len(os.sched_getaffinity(0)), "load": round(os.getloadavg()[0], 1), "rows": rows}))


if __name__ == "__main__":
    main()
