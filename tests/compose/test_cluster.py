"""A run on the real Compose file, with two workers that share nothing but the store."""

import json
import os
import subprocess
from collections import Counter
from datetime import datetime
from itertools import pairwise

import pytest
from cluster import Cluster, inspect, service_of

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

ORDER = ["download", "validate", "split", "train_head", "fine_tune", "evaluate", "promote", "submit", "score"]


def test_a_run_succeeds_on_two_workers_and_counts_one_submission(cluster: Cluster, finished_run: str) -> None:
    tasks = cluster.tasks(finished_run)
    states = {name: task["state"] for name, task in tasks.items()}
    other = {"request_approval": "skipped", "announce_champion": "success", "refit": "skipped"}
    assert states == dict.fromkeys(ORDER, "success") | other
    hosts = {task["hostname"] for name, task in tasks.items() if name in ORDER}
    assert hosts == {worker[:12] for worker in cluster.containers("worker")}
    assert cluster.result(finished_run, "promote")["metrics"]["decision"] == "promoted"
    store = cluster.store()
    assert len(list(store.list_keys("submissions/"))) == 1 + len(list(store.list_keys("submissions/claims/")))


def test_all_artifacts_are_in_the_store_and_containers_share_no_file(cluster: Cluster, finished_run: str) -> None:
    folders = Counter(key.partition("/")[0] for key in cluster.store().list_keys(""))
    expected = {"archives", "inspections", "datasets", "splits", "features", "models", "audits", "evaluations",
                "decisions", "predictions", "submissions", "scores", "runs", "champion.json"}
    assert expected <= set(folders)
    mounts = [(service_of(container), mount) for container in cluster.containers()
              for mount in inspect(container)["Mounts"]]
    assert {mount["Source"] for _, mount in mounts if mount["Type"] == "bind"} <= {"/dev/null"}
    volumes = [(service, mount["Name"]) for service, mount in mounts if mount["Type"] == "volume"]
    assert set(Counter(name for _, name in volumes).values()) == {1}
    assert sorted(service for service, _ in volumes) == [
        "demo", "postgres", "redis", "store", "worker", "worker"]


def test_finished_logs_are_read_from_the_store(cluster: Cluster, finished_run: str) -> None:
    keys = set(_log_keys(cluster))
    for name in ORDER:
        key = f"dag_id=car_retrain/run_id={finished_run}/task_id={name}/attempt=1.log"
        assert key in keys
        lines = cluster.log(finished_run, name)
        assert f"s3://carclf/logs/{key}" in lines
        command = f"$ /opt/venv/bin/python -u -m carclf {name} --store s3://carclf/store"
        assert any(line.startswith(command) for line in lines)


def _log_keys(cluster: Cluster) -> list[str]:
    # Listed by boto3, because Airflow's keys contain "=" and "+", which a Store does not allow.
    import boto3

    cluster.store()
    client = boto3.client("s3")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="carclf", Prefix="logs/")
    return [item["Key"].removeprefix("logs/") for page in pages for item in page.get("Contents", [])]


def test_the_log_of_a_running_task_is_read_from_its_worker(cluster: Cluster, finished_run: str) -> None:
    with cluster.running(seed=11, **{"fine_tune.epochs": 40}) as (run_id, task):

        def progress_lines() -> list[str]:
            return [line for line in cluster.log(run_id, "fine_tune") if "img/s" in line]

        assert cluster.wait(progress_lines, 300, "fine_tune logs its progress")
        assert cluster.tasks(run_id)["fine_tune"]["state"] == "running"
        assert any(line.startswith(f"http://{task['hostname']}:8793/log/") for line in cluster.log(run_id, "fine_tune"))


def test_a_run_can_be_measured(cluster: Cluster, finished_run: str, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = cluster.tasks(finished_run)
    times = [[datetime.fromisoformat(tasks[name][end]) for end in ("start_date", "end_date")] for name in ORDER]
    gaps = [(after[0] - before[1]).total_seconds() for before, after in pairwise(times)]
    print_table(cluster, gaps, capsys)
    assert all(gap >= 0 for gap in gaps)


def print_table(cluster: Cluster, gaps: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """Print the rows for benchmarks/README.md."""
    ids = [container for container in cluster.containers() if service_of(container) != "init"]
    lines = subprocess.check_output(["docker", "stats", "--no-stream", "--format", "{{json .}}", *ids], text=True)
    used = sorted((stats["Name"].removeprefix(f"{cluster.project}-"), stats["MemUsage"].partition(" /")[0])
                  for stats in map(json.loads, lines.splitlines()))
    size = ["docker", "image", "inspect", "-f", "{{.Size}}"]
    images = ("carclf-airflow", "carclf-worker-cpu")
    sizes = {name: int(subprocess.check_output([*size, name])) / 1e9 for name in images}
    with capsys.disabled():
        print(f"\n{os.cpu_count()} cores; built in {cluster.seconds['build']:.0f} s, healthy after "
              f"{cluster.seconds['healthy']:.0f} s; between two tasks {sum(gaps) / len(gaps):.1f} s "
              f"(longest {max(gaps):.1f} s)")
        print("images:", ", ".join(f"{name} {gigabytes:.2f} GB" for name, gigabytes in sizes.items()))
        print("memory:", ", ".join(f"{name} {memory}" for name, memory in used))
