"""A real Airflow watches a folder and a bucket: new images start one run, also if the triggerer is killed meanwhile."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
import pytest

from carclf.services.storage import init_store
from carclf_airflow.ids import RETRAIN_DAG
from carclf_airflow.local.airflow_server import Airflow
from carclf_airflow.local.processes import ProcessGroup
from carclf_airflow.local.session import stage_environment

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(900)]

QUIET_SECONDS = 15
SETTINGS = {
    "CARCLF_WATCH_SOURCE": "true", "CARCLF_SCHEDULE": "none", "CARCLF_RECIPE": "demo", "CARCLF_POLL_SECONDS": "1",
    "CARCLF_QUIET_MINUTES": str(QUIET_SECONDS / 60), "CARCLF_MIN_HOURS_BETWEEN_RUNS": "0", "CARCLF_MIN_NEW_IMAGES": "2",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10", "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
}
Put = Callable[[str], Any]


class WatchedSource:
    """A source, and a function that puts an image into it."""

    def __init__(self, name: str, put: Put) -> None:
        self.name = name
        self.put = put


def folder_source(folder: Path) -> WatchedSource:
    (folder / "cat").mkdir(parents=True)
    return WatchedSource(str(folder), lambda name: (folder / "cat" / name).write_bytes(b"x"))


def bucket_source() -> WatchedSource:
    client, bucket = boto3.client("s3"), f"bucket-{uuid.uuid4().hex[:8]}"
    client.create_bucket(Bucket=bucket)
    return WatchedSource(f"s3://{bucket}/photos",
                         lambda name: client.put_object(Bucket=bucket, Key=f"photos/cat/{name}", Body=b"x"))


@pytest.fixture(params=["folder", "bucket"])
def source(request: pytest.FixtureRequest, tmp_path: Path, aws: None) -> WatchedSource:
    watched = folder_source(tmp_path / "photos") if request.param == "folder" else bucket_source()
    watched.put("first.jpg")
    return watched


@pytest.fixture
def airflow(source: WatchedSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Airflow]:
    """An Airflow whose store has read the source."""
    monkeypatch.setenv("CARCLF_PORT", "0")
    environment = stage_environment(init_store(str(tmp_path / "store")).url) | SETTINGS
    environment["CARCLF_SETTINGS"] = f"data.source={source.name}"
    subprocess.run([sys.executable, "-m", "carclf", "download", "--run", "earlier"], env=environment, check=True)
    with ProcessGroup(tmp_path / "logs") as processes:
        server = Airflow(tmp_path / "airflow", processes, environment, num_workers=2)
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


def wait_for(condition: Callable[[], Any], seconds: float) -> Any:
    limit = time.monotonic() + seconds
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
    wait_for(lambda: state_of(airflow, "seen"), 120)
    for number in range(20):
        source.put(f"{number}.jpg")
        time.sleep(0.2)
    number = wait_for(lambda: state_of(airflow, "seen")["number"] - 1, 60)
    assert list_runs(airflow) == []
    kill_and_restart_triggerer(airflow)
    assert state_of(airflow, "announcement") == {}
    (run,) = wait_for(lambda: list_runs(airflow), 180)
    assert (run["run_type"], run["conf"]) == ("asset_triggered", {})
    wait_for(lambda: list_runs(airflow)[0]["state"] in ("success", "failed"), 180)
    path = f"dags/{RETRAIN_DAG}/dagRuns/{quote(run['dag_run_id'])}"
    (event,) = airflow.call("GET", f"{path}/upstreamAssetEvents")["asset_events"]
    payload = event["extra"]["payload"]
    assert (payload["source"], payload["num_images"], payload["num_new_images"]) == (source.name, 21, 20)
    announced = state_of(airflow, "announcement")
    assert announced["number"] >= number
    assert announced["token"] == state_of(airflow, "acknowledged")
    time.sleep(2 * QUIET_SECONDS)
    assert len(list_runs(airflow)) == 1
