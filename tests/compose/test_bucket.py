"""The script that creates the buckets before the cluster starts."""

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from carclf.errors import ConfigError
from carclf.services.storage import require_store

pytestmark = pytest.mark.integration

SCRIPT = Path(__file__).resolve().parent.parent.parent / "docker/create_buckets.py"


def create_buckets(
    endpoint: str, store: str, region: str = "us-east-1", logs: str = ""
) -> subprocess.CompletedProcess[str]:
    settings = {"CARCLF_STORE": store, "AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER": logs or f"{store}-logs",
                "AWS_ENDPOINT_URL_S3": endpoint, "AWS_DEFAULT_REGION": region, "AWS_ACCESS_KEY_ID": "key",
                "AWS_SECRET_ACCESS_KEY": "secret", "AWS_MAX_ATTEMPTS": "1"}
    return subprocess.run([sys.executable, str(SCRIPT)], env=os.environ | settings, capture_output=True, text=True,
                          check=False)


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    """Airflow's database, without a run of a DAG."""
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:///{tmp_path}/airflow.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "airflow.db", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE dag_run (id INTEGER)")
        yield connection


@pytest.mark.usefixtures("aws")
def test_the_store_of_a_new_deployment_is_created_and_a_lost_store_is_not(
    s3_endpoint: str, database: sqlite3.Connection
) -> None:
    assert create_buckets(s3_endpoint, "s3://new/store").returncode == 0
    require_store("s3://new/store")
    database.execute("INSERT INTO dag_run VALUES (1)")
    for url in ("s3://lost/store", "s3://new/elsewhere"):
        assert create_buckets(s3_endpoint, url).returncode == 0
        with pytest.raises(ConfigError, match="carclf store init"):
            require_store(url)


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1"])
def test_a_bucket_is_created_once_in_its_region(s3_endpoint: str, region: str) -> None:
    first, second = (create_buckets(s3_endpoint, f"s3://made-{region}/store", region) for _ in range(2))
    assert (first.returncode, first.stdout) == (0, f"Created the bucket made-{region}\n"), first.stderr
    assert (second.returncode, second.stdout) == (0, "")
    client = boto3.client("s3", endpoint_url=s3_endpoint, region_name=region, aws_access_key_id="key",
                          aws_secret_access_key="secret")
    location = client.get_bucket_location(Bucket=f"made-{region}")["LocationConstraint"]
    assert location == (None if region == "us-east-1" else region)


def test_the_log_bucket_is_created_too(s3_endpoint: str) -> None:
    done = create_buckets(s3_endpoint, "s3://for-artifacts/store", logs="s3://for-logs/airflow")
    assert (done.returncode, done.stdout) == (
        0, "Created the bucket for-artifacts\nCreated the bucket for-logs\n")


def test_a_log_folder_outside_s3_is_rejected(s3_endpoint: str) -> None:
    done = create_buckets(s3_endpoint, "s3://for-artifacts/store", logs="/opt/logs")
    assert done.returncode == 78
    assert "LOGS_URL='/opt/logs'" in done.stderr


@pytest.mark.parametrize("store", ["/scratch/store", "s3://", "s3:///prefix"])
def test_a_store_without_a_bucket_is_rejected(store: str) -> None:
    done = create_buckets("http://127.0.0.1:9", store)
    assert done.returncode == 78
    assert f"CARCLF_STORE={store!r}" in done.stderr


def test_a_store_that_does_not_respond_is_reported_with_its_settings() -> None:
    done = create_buckets("http://127.0.0.1:9", "s3://bucket/store")
    assert done.returncode == 78
    assert "CARCLF_STORE" in done.stderr
    assert "AWS_ENDPOINT_URL_S3" in done.stderr
    assert "Traceback" not in done.stderr
