"""How long the list of 5,000 runs takes: the index's rows, and the page's route over HTTP; a folder and an S3 server.

python -m benchmarks.runs_page [--quick]

The route is answered by uvicorn in a process of its own, with Airflow's login set aside, and asked by one client on
loopback; the S3 server is moto's, in another process. ``median_ms`` is the slowest store's route, or its ``rows``
where there are no pages.
"""

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from carclf.config import load_config
from carclf.runs.index import list_runs, rebuild_index, update_index
from carclf.services.storage import Store, open_store

ROOT = Path(__file__).resolve().parents[1]
LIMIT_MS = 300
STAGES = {
    "download": {"num_bytes": 2_190_883}, "validate": {"num_train": 9000, "num_classes": 10, "num_unusable": 3},
    "split": {"num_train": 7650, "num_val": 1350, "class_names": "0 1 2 3 4 5 6 7 8 9"},
    "train_head": {"val_accuracy": 0.91, "best_epoch": 31, "learning_rate": 2e-3},
    "fine_tune": {"val_accuracy": 0.94, "best_epoch": 9, "learning_rate": 1e-3, "batch_size": 32},
    "evaluate": {"val_accuracy": 0.94, "val_accuracy_low": 0.926, "val_accuracy_high": 0.951, "temperature": 1.1},
    "promote": {"decision": "rejected", "threshold": 0.93, "reason": "rejected: class 7 recall 0.78 is below 0.8"},
    "submit": {"ref": 1001, "num_rows": 6675}, "score": {"public_score": 0.95, "rank": 12, "warning": ""},
}


def record(number: int) -> dict[str, Any]:
    """One run's record, as large as real ones."""
    name = f"scheduled__{2000 + number // 360:04d}-{number // 30 % 12 + 1:02d}-{number % 30 + 1:02d}T00-00-00-00-00"
    stages = {stage: {
        "stage": stage, "key": f"{number:016x}", "reused": False, "seconds": 60.0 + number % 7, "metrics": metrics,
        "summary": ", ".join(f"{name} {value}" for name, value in metrics.items()), "skip_reason": "", "waiting": False,
        "until": "", "ended": "2026-11-25T05:03:31.214+00:00", "gpu": "NVIDIA H100 80GB HBM3",
    } for stage, metrics in STAGES.items()}
    return {"run": name, "recipe": ("gpu", "demo", "cars10")[number % 3], "config": load_config("gpu").model_dump(),
            "stages": stages, "attempts": {}, "created": f"{name[11:21]}T00:00:00.000+00:00",
            "versions": {"carclf": "0.1.0", "keras": "3.15.1"}, "machine": "Linux-6.18-x86_64-with-glibc2.36"}


def write_run_records(store: Store, num_runs: int) -> None:
    """Write the records; the index is not there yet."""
    def write(number: int) -> None:
        one = record(number)
        store.write(f"runs/{one['run']}.json", json.dumps(one, indent=1).encode())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(num_runs)))


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """The median of several calls."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - started))
    return round(statistics.median(times), 1)


def measure(store: Store, num_runs: int, repeats: int) -> dict[str, Any]:
    """Figures of the index in one store; the time of ``rows`` also where another run was noted meanwhile."""
    write_run_records(store, num_runs)
    started = time.perf_counter()
    assert rebuild_index(store) == num_runs
    rebuilt = round(time.perf_counter() - started, 1)
    found = store.read("runs.json")
    assert found is not None

    def changed() -> None:
        update_index(store, record(len(noted))["run"])
        noted.append(1)

    noted: list[int] = []
    return {
        "reindex_s": rebuilt, "index_mb": round(len(found.data) / 1e6, 2), "rows_ms": milliseconds(
            lambda: list_runs(store), repeats), "note_ms": milliseconds(changed, max(3, repeats // 5)),
    }


def site() -> Any:
    """The pages' app with Airflow's login set aside: what uvicorn serves here."""
    from carclf_airflow import routes

    app = routes.create_app()
    app.dependency_overrides[routes.require_permission] = lambda: None
    return app


@contextlib.contextmanager
def serve(command: list[str], environment: dict[str, str], path: str) -> Iterator[str]:
    """The address of a server of its own process, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([*command, str(port)], env=os.environ | environment, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    try:
        _wait(server, f"http://127.0.0.1:{port}{path}")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def _wait(server: subprocess.Popen[bytes], url: str) -> None:
    limit = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(url, timeout=60).read()
            return
        except OSError as error:
            if server.poll() is not None or time.monotonic() > limit:
                raise RuntimeError(f"{url} does not answer: {error}") from error
            time.sleep(0.2)


def ask(base: str, num_runs: int, repeats: int) -> dict[str, Any]:
    """The route's answers: the first part, sorted by accuracy, filtered by a text; and the whole page's HTML."""
    paths = {"first_ms": "/data/runs", "sorted_ms": "/data/runs?sort=val_accuracy&limit=200",
             "filtered_ms": "/data/runs?text=2007+demo", "timeline_ms": "/data/timeline", "page_ms": "/"}

    def get(path: str) -> bytes:
        return bytes(urllib.request.urlopen(base + path, timeout=60).read())

    assert json.loads(get("/data/runs"))["num_runs"] == num_runs
    return {name: milliseconds(lambda path=path: get(path), repeats) for name, path in paths.items()}  # type: ignore[misc]


def served(url: str, num_runs: int, repeats: int) -> dict[str, Any]:
    """The route's metrics of a store."""
    uvicorn = [sys.executable, "-m", "uvicorn", "--factory", "benchmarks.runs_page:site", "--log-level", "error",
               "--port"]
    with tempfile.TemporaryDirectory() as home:
        environment = {"CARCLF_STORE": url, "AIRFLOW_HOME": home, "PYTHONPATH": str(ROOT)}
        with serve(uvicorn, environment, "/data/runs") as base:
            return ask(base, num_runs, repeats)


def main() -> None:
    """Print a line for each store, and all of it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="300 runs, 5 repeats.")
    options = parser.parse_args()
    num_runs, repeats = (300, 5) if options.quick else (options.runs, options.repeats)
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder, serve(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p"], {}, "/moto-api/") as endpoint:
        os.environ["AWS_ENDPOINT_URL"] = endpoint
        bucket = urllib.request.Request(f"{endpoint}/runs", method="PUT")
        urllib.request.urlopen(bucket).read()
        for name, url in {"folder": f"{folder}/store", "s3": "s3://runs/store"}.items():
            found[name] = measure(open_store(url), num_runs, repeats) | served(url, num_runs, repeats)
            print(f"{name:<8}" + "  ".join(f"{figure} {value}" for figure, value in found[name].items()), flush=True)
    medians = [one.get("first_ms", one["rows_ms"]) for one in found.values()]
    print(json.dumps({"num_runs": num_runs, "median_ms": max(medians), "limit_ms": LIMIT_MS, "stores": found}))


if __name__ == "__main__":
    main()
