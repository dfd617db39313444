"""What Airflow costs an experiment: 24 mapped members on 2 and on 4 local workers, against the ideal.

python -m benchmarks.experiment_overhead [--quick]

A real Airflow (SQLite, LocalExecutor) and a store of its own for each number of workers. A member is a head on the
demo's rendered cars, each with another weight decay, so that none reuses another's model: data, split and features are
shared. ``work`` is what the members' stages took, as their records say, ``ideal`` that over the workers. Overhead is
what the workers' time was beside it, for each member: in its task (processes and imports) and between tasks (Airflow,
and workers without a task at the end). On fewer cores than workers the work itself takes longer.
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
from carclf_airflow.ids import EXPERIMENTS_DAG
from carclf_airflow.local.dag_run import DagRun
from carclf_airflow.local.demo_server import start_demo_server
from carclf_airflow.local.experiment_run import run_experiment
from carclf_airflow.local.processes import ProcessGroup
from carclf_airflow.local.server import REPOSITORY_ROOT, Airflow


def form(num_recipes: int) -> dict[str, Any]:
    """The baseline and so many recipes beside it, with two seeds."""
    return {"recipe": "demo", "settings": "head.epochs=2 fine_tune.epochs=0", "seeds": "0,1",
            "recipes": [f"decay-{number} head.weight_decay={number}e-3" for number in range(2, num_recipes + 2)]}


def measure(folder: Path, num_workers: int, num_recipes: int) -> dict[str, float]:
    """One experiment in an Airflow of its own; metrics in seconds."""
    store = folder / "store"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "CARCLF", "KAGGLE"))}
    environment = kept | {
        "CARCLF_STORE": str(store), "CARCLF_CACHE": str(folder / "cache"), "PYTHONPATH": str(REPOSITORY_ROOT),
        "CARCLF_SETTINGS": "competition=demo-cars", "CARCLF_SCHEDULE": "none", "KAGGLE_API_TOKEN": "demo-key",
    }
    with ProcessGroup(folder / "logs") as processes:
        environment["CARCLF_KAGGLE_ENDPOINT"] = start_demo_server(processes, folder.parent / "server", environment)
        airflow = Airflow(folder / "airflow", processes, environment, num_workers=num_workers)
        airflow.start()
        summary = run_experiment(airflow, form(num_recipes), "members")
        instances = DagRun(airflow, EXPERIMENTS_DAG, "members").task_instances()
        tasks = [task for task in instances if task["task_id"] == "finish"]
    if summary["state"] != "success" or any(task["state"] != "success" for task in tasks):
        sys.exit(f"The experiment ended with {summary['state']}; look into the lines above.")
    return metrics(tasks, store, num_workers)


def metrics(tasks: list[dict[str, Any]], store: Path, num_workers: int) -> dict[str, float]:
    """Of Airflow's task instances and the members' records."""
    begun, ended = ([datetime.fromisoformat(task[name]) for task in tasks] for name in ("start_date", "end_date"))
    wall = (max(ended) - min(datetime.fromisoformat(task["queued_when"]) for task in tasks)).total_seconds()
    busy = sum((end - begin).total_seconds() for begin, end in zip(begun, ended, strict=True))
    records = [json.loads(path.read_text())["stages"] for path in store.glob("runs/*.json")]
    work = sum(float(stages[name]["seconds"]) for stages in records for name in TRAINING_STAGES)
    num, ideal = len(tasks), work / num_workers
    return {"workers": num_workers, "members": num, "wall": round(wall, 1), "ideal": round(ideal, 1),
            "wall_vs_ideal": round(wall / ideal, 2), "work_each": round(work / num, 2),
            "overhead_each": round((wall * num_workers - work) / num, 2),
            "in_task": round((busy - work) / num, 2), "between": round((wall * num_workers - busy) / num, 2)}


def main() -> None:
    """Print a row for each number of workers, and all of them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="six members on two workers")
    quick = parser.parse_args().quick
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # else Airflow would stay
    rows = []
    with tempfile.TemporaryDirectory(prefix="carclf-bench-") as folder:
        for num_workers in (2,) if quick else (2, 4):
            place = Path(folder) / str(num_workers)
            place.mkdir()
            rows.append(measure(place, num_workers, 2 if quick else 11))
    print(*(f"{name:>14}" for name in rows[0]))
    for row in rows:
        print(*(f"{value:>14}" for value in row.values()))
    print(json.dumps({"cores": len(os.sched_getaffinity(0)), "load": round(os.getloadavg()[0], 1), "rows": rows}))


if __name__ == "__main__":
    main()
