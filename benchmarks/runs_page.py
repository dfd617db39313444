"""Time the list of 5,000 runs, from the index and over HTTP, with a store in a folder and on an S3 server.

python -m benchmarks.runs_page [--quick]

The routes are served by uvicorn in a separate process, without Airflow's login, to one client on loopback. The S3
server is moto's, in another process. ``median_ms`` is the slower store's time of the first request for the list.
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
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from carclf.config import load_config
from carclf.runs.index import list_runs, rebuild_index, update_index
from carclf.services.storage import Store, init_store

ROOT = Path(__file__).resolve().parents[1]
LIMIT_MS = 300
START_TIMEOUT = 120  # seconds
NUM_WRITERS = 8
METRICS = {
    "download": {"num_bytes": 2_190_883},
    "validate": {"num_train": 9000, "num_classes": 10, "num_unusable": 3},
    "split": {"num_train": 7650, "num_val": 1350, "class_names": [str(number) for number in range(10)]},
    "train_head": {"val_accuracy": 0.91, "learning_rate": 2e-3},
    "fine_tune": {"val_accuracy": 0.94, "learning_rate": 1e-3, "batch_size": 32},
    "evaluate": {"val_accuracy": 0.94, "val_accuracy_low": 0.926, "val_accuracy_high": 0.951, "temperature": 1.1},
    "promote": {"decision": "rejected", "threshold": 0.93, "reason": "rejected: class 7 recall 0.78 is below 0.8"},
    "submit": {"ref": 1001, "num_rows": 6675},
    "score": {"public_score": 0.95, "rank": 12, "warning": ""},
}
REQUESTS = {
    "first_ms": "/data/runs",
    "sorted_ms": "/data/runs?sort=val_metric&limit=200",
    "filtered_ms": "/data/runs?text=2007+demo",
    "timeline_ms": "/data/timeline",
    "page_ms": "/",
}


def run_record(number: int) -> dict[str, Any]:
    """Return a run's record, as large as a real one."""
    year = 2000 + number // 360
    month = number // 30 % 12 + 1
    day = number % 30 + 1
    date = f"{year:04d}-{month:02d}-{day:02d}"
    stages = {stage: _stage_result(stage, f"{number:016x}", metrics) for stage, metrics in METRICS.items()}
    return {
        "run": f"scheduled__{date}T00-00-00-00-00",
        "recipe": ("gpu", "demo", "cpu")[number % 3],
        "config": load_config("gpu").model_dump(),
        "stages": stages,
        "attempts": {},
        "created": f"{date}T00:00:00.000+00:00",
        "versions": {"carclf": "0.2.0", "keras": "3.15.1"},
        "machine": "Linux-6.18-x86_64-with-glibc2.36",
    }


def _stage_result(stage: str, key: str, metrics: dict[str, Any]) -> dict[str, Any]:
    summary = " ".join(f"{name}={value}" for name, value in metrics.items())
    return {
        "stage": stage, "key": key, "reused": False, "seconds": 63.0, "metrics": metrics, "summary": summary,
        "skip_reason": "", "waiting": False, "until": "", "ended": "2026-11-25T05:03:31.214+00:00",
        "gpu": "NVIDIA H100 80GB HBM3",
    }


def write_run_records(store: Store, num_runs: int) -> None:
    """Write the records of the runs without updating the index."""
    def write(number: int) -> None:
        record = run_record(number)
        store.write(f"runs/{record['run']}.json", json.dumps(record, indent=1).encode())

    with ThreadPoolExecutor(NUM_WRITERS) as pool:
        list(pool.map(write, range(num_runs)))


def median_ms(call: Callable[[], object], repeats: int) -> float:
    """Return the median time of several calls in milliseconds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - started))
    return round(statistics.median(times), 1)


def measure_index(store: Store, num_runs: int, repeats: int) -> dict[str, float]:
    """Write the records, and time rebuilding, reading and updating the index."""
    write_run_records(store, num_runs)
    started = time.perf_counter()
    assert rebuild_index(store) == num_runs
    rebuild_s = round(time.perf_counter() - started, 1)
    index = store.read("runs.json")
    assert index is not None
    runs = (run_record(number)["run"] for number in range(num_runs))
    return {
        "rebuild_s": rebuild_s,
        "index_mb": round(len(index.data) / 1e6, 2),
        "list_ms": median_ms(lambda: list_runs(store), repeats),
        "update_ms": median_ms(lambda: update_index(store, next(runs)), max(3, repeats // 5)),
    }


def create_pages() -> FastAPI:
    """Return the app of the pages without Airflow's login, for uvicorn."""
    from carclf_airflow import routes

    app = routes.create_app()
    app.dependency_overrides |= {routes.require_permission: lambda: None, routes.may_start: lambda: True}
    return app


@contextlib.contextmanager
def serve(command: list[str], environment: dict[str, str], path: str) -> Iterator[str]:
    """Run a server that takes a port as its last argument; yield its URL once it serves ``path``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [*command, str(port)], env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_until_ready(server, f"http://127.0.0.1:{port}{path}")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def _wait_until_ready(server: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            _get(url)
            return
        except OSError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"The server does not respond at {url}: {error}") from error
            time.sleep(0.2)


@contextlib.contextmanager
def serve_pages(store_url: str, airflow_home: Path) -> Iterator[str]:
    """Serve the pages of a store without Airflow's login; yield the URL."""
    command = [sys.executable, "-m", "uvicorn", "--factory", "benchmarks.runs_page:create_pages", "--port"]
    environment = {"CARCLF_STORE": store_url, "AIRFLOW_HOME": str(airflow_home), "PYTHONPATH": str(ROOT)}
    with serve(command, environment, "/static/vega.js") as url:
        yield url


def measure_requests(store_url: str, num_runs: int, repeats: int) -> dict[str, float]:
    """Time requests for the list, sorted and filtered, for the timeline and for the page."""
    with tempfile.TemporaryDirectory() as home, serve_pages(store_url, Path(home)) as url:
        assert json.loads(_get(f"{url}/data/runs"))["num_runs"] == num_runs
        return {name: median_ms(partial(_get, url + path), repeats) for name, path in REQUESTS.items()}


def _get(url: str) -> bytes:
    return bytes(urllib.request.urlopen(url, timeout=60).read())


def main() -> None:
    """Print a line for each store and all measurements as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="300 runs, 5 repeats.")
    options = parser.parse_args()
    num_runs, repeats = (300, 5) if options.quick else (options.runs, options.repeats)
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    results: dict[str, dict[str, float]] = {}
    moto = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p"]
    with tempfile.TemporaryDirectory() as folder, serve(moto, {}, "/moto-api/") as endpoint:
        os.environ["AWS_ENDPOINT_URL"] = endpoint
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/runs", method="PUT")).read()  # creates the bucket
        for name, url in {"folder": f"{folder}/store", "s3": "s3://runs/store"}.items():
            results[name] = measure_index(init_store(url), num_runs, repeats)
            results[name] |= measure_requests(url, num_runs, repeats)
            print(f"{name:<8}" + "  ".join(f"{metric} {value}" for metric, value in results[name].items()), flush=True)
    slowest = max(result["first_ms"] for result in results.values())
    print(json.dumps({"num_runs": num_runs, "median_ms": slowest, "limit_ms": LIMIT_MS, "stores": results}))


if __name__ == "__main__":
    main()
