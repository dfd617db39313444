"""Runs that a real Airflow starts: by new images in a folder or bucket, and by a schedule without anything new."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
import pytest
from small_runs import SMALL

from carclf.demo.rendering import render_competition
from carclf.runs.index import list_runs as list_recorded_runs
from carclf.services.storage import init_store, open_store
from carclf_airflow.ids import RETRAIN_DAG
from carclf_airflow.local.airflow_server import Airflow
from carclf_airflow.local.processes import ProcessGroup
from carclf_airflow.local.session import stage_environment

pytestmark = [pytest.mark.dags, pytest.mark.timeout(900)]

QUIET_SECONDS = 15
WATCH = {
    "CARCLF_WATCH_SOURCE": "true", "CARCLF_SCHEDULE": "none", "CARCLF_RECIPE": "demo", "CARCLF_POLL_SECONDS": "5",
    "CARCLF_QUIET_MINUTES": str(QUIET_SECONDS / 60), "CARCLF_MIN_HOURS_BETWEEN_RUNS": "0", "CARCLF_MIN_NEW_IMAGES": "2",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10", "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
}


class WatchedFolder:
    """A folder with images."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = str(folder)
        (folder / "cat").mkdir(parents=True)

    def put(self, name: str) -> None:
        (self.folder / "cat" / name).write_bytes(b"x")

    def hide(self) -> None:
        self.folder.rename(self.folder.with_suffix(".hidden"))

    def show(self) -> None:
        self.folder.with_suffix(".hidden").rename(self.folder)


class WatchedBucket:
    """A bucket of moto's server; it is hidden while it has no object, so that its only one is first.jpg."""

    def __init__(self) -> None:
        self.client = boto3.client("s3")
        self.bucket = f"bucket-{uuid.uuid4().hex[:8]}"
        self.name = f"s3://{self.bucket}/photos"
        self.client.create_bucket(Bucket=self.bucket)

    def put(self, name: str) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"photos/cat/{name}", Body=b"x")

    def hide(self) -> None:
        self.client.delete_object(Bucket=self.bucket, Key="photos/cat/first.jpg")

    def show(self) -> None:
        self.put("first.jpg")


WatchedSource = WatchedFolder | WatchedBucket


@pytest.fixture(params=["folder", "bucket"])
def source(request: pytest.FixtureRequest, tmp_path: Path, aws: None) -> WatchedSource:
    watched = WatchedFolder(tmp_path / "photos") if request.param == "folder" else WatchedBucket()
    watched.put("first.jpg")
    return watched


@pytest.fixture
def airflow(source: WatchedSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Airflow]:
    """An Airflow whose store has read the source."""
    monkeypatch.setenv("CARCLF_PORT", "0")
    environment = stage_environment(init_store(str(tmp_path / "store")).url) | WATCH
    environment["CARCLF_SETTINGS"] = f"data.source={source.name}"
    subprocess.run([sys.executable, "-m", "carclf", "download", "--run", "earlier"], env=environment, check=True)
    with running_airflow(tmp_path, environment) as server:
        yield server


@contextmanager
def running_airflow(folder: Path, environment: dict[str, str]) -> Iterator[Airflow]:
    """Run an Airflow in which car_retrain is not paused."""
    with ProcessGroup(folder / "logs") as processes:
        server = Airflow(folder / "airflow", processes, environment, num_workers=2)
        server.start()
        server.wait_for_dag(RETRAIN_DAG)
        server.call("PATCH", f"dags/{RETRAIN_DAG}", {"is_paused": False})
        yield server


def list_runs(airflow: Airflow) -> list[dict[str, Any]]:
    return list(airflow.call("GET", f"dags/{RETRAIN_DAG}/dagRuns")["dag_runs"])


def state_of(airflow: Airflow, key: str) -> Any:
    """Return a value of the state of the asset; an empty dictionary until it is written."""
    with closing(sqlite3.connect(airflow.home / "airflow.db", timeout=60)) as database:
        row = database.execute("SELECT value FROM asset_state_store WHERE key = ?", [key]).fetchone()
    return json.loads(row[0]) if row else {}


def count_lines(airflow: Airflow, text: str) -> int:
    """Return how many lines of the triggerer's log contain the text."""
    return (airflow.processes.log_folder / "triggerer.log").read_text().count(text)


def wait_for(condition: Callable[[], Any]) -> Any:
    limit = time.monotonic() + 600  # on a busy machine
    while not (value := condition()):
        assert time.monotonic() < limit
        time.sleep(0.5)
    return value


def kill_and_restart_triggerer(airflow: Airflow) -> None:
    process = airflow.processes.running["triggerer"]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    command = [sys.executable, "-m", "airflow", "triggerer", "--skip-serve-logs"]
    airflow.processes.start("triggerer", command, airflow.environment)


def test_new_images_start_one_run_although_the_triggerer_is_killed(airflow: Airflow, source: WatchedSource) -> None:
    before = wait_for(lambda: state_of(airflow, "seen"))["fingerprint"]
    source.hide()
    wait_for(lambda: count_lines(airflow, "source: unavailable"))
    time.sleep(10)
    source.show()
    wait_for(lambda: count_lines(airflow, "source: available again"))
    assert (count_lines(airflow, "source: unavailable"), state_of(airflow, "seen")["fingerprint"]) == (1, before)
    for number in range(20):
        source.put(f"{number}.jpg")
        time.sleep(0.2)
    wait_for(lambda: state_of(airflow, "seen")["fingerprint"] != before)
    assert list_runs(airflow) == []
    kill_and_restart_triggerer(airflow)
    assert state_of(airflow, "announcement") == {}
    (run,) = wait_for(lambda: list_runs(airflow))
    assert (run["run_type"], run["conf"]) == ("asset_triggered", {})
    wait_for(lambda: list_runs(airflow)[0]["state"] in ("success", "failed"))
    path = f"dags/{RETRAIN_DAG}/dagRuns/{quote(run['dag_run_id'])}"
    (event,) = airflow.call("GET", f"{path}/upstreamAssetEvents")["asset_events"]
    payload = event["extra"]["payload"]
    assert (payload["source"], payload["num_images"], payload["num_new_images"]) == (source.name, 21, 20)
    announced = wait_for(lambda: state_of(airflow, "announcement"))
    time.sleep(2 * QUIET_SECONDS)
    assert (len(list_runs(airflow)), state_of(airflow, "announcement")) == (1, announced)


def test_a_scheduled_run_on_unchanged_data_ends_with_nothing_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render_competition(tmp_path / "cars", num_train=120, num_test=10)
    settings = SMALL | {"data.source": str(tmp_path / "cars/train")}
    monkeypatch.setenv("CARCLF_PORT", "0")
    environment = stage_environment(init_store(str(tmp_path / "store")).url) | {
        "CARCLF_RECIPE": "demo", "CARCLF_SCHEDULE": "* * * * *",
        "CARCLF_SETTINGS": " ".join(f"{name}={value}" for name, value in settings.items()),
    }
    subprocess.run([sys.executable, "-m", "carclf", "run", "--run", "earlier"], env=environment, check=True)
    with running_airflow(tmp_path, environment) as airflow:
        run = wait_for(lambda: [run for run in list_runs(airflow) if run["state"] in ("success", "failed")])[0]
        path = f"dags/{RETRAIN_DAG}/dagRuns/{quote(run['dag_run_id'])}/taskInstances"
        tasks = {task["task_id"]: task["state"] for task in airflow.call("GET", path)["task_instances"]}
    assert (run["run_type"], run["state"], tasks.pop("download")) == ("scheduled", "success", "success")
    assert tasks.pop("announce_champion") == "success"  # of the earlier run, which has not been announced
    assert set(tasks.values()) == {"skipped"}
    start, end = (datetime.fromisoformat(run[name]) for name in ("start_date", "end_date"))
    print(f"nothing new: {(end - start).total_seconds():.1f} s")
    row = next(row for row in list_recorded_runs(open_store(tmp_path / "store")) if row["run"] != "earlier")
    assert (row["state"], row["text"].partition(" had")[0]) == ("done", "nothing new: run earlier")
