"""The bucket that ``init`` makes: on a server that speaks S3, in any region; what is wrong is said in words."""

import os
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

SCRIPT = Path(__file__).resolve().parent.parent.parent / "docker/create_buckets.py"


def make(endpoint: str, store: str, region: str = "us-east-1", logs: str = "") -> subprocess.CompletedProcess[str]:
    settings = {"CARCLF_STORE": store, "AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER": logs or f"{store}-logs",
                "AWS_ENDPOINT_URL_S3": endpoint, "AWS_DEFAULT_REGION": region, "AWS_ACCESS_KEY_ID": "key",
                "AWS_SECRET_ACCESS_KEY": "secret", "AWS_MAX_ATTEMPTS": "1"}
    return subprocess.run([sys.executable, str(SCRIPT)], env=os.environ | settings, capture_output=True, text=True)


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1"])
def test_a_bucket_is_made_once_and_in_its_own_region(s3_endpoint: str, region: str) -> None:
    first, second = (make(s3_endpoint, f"s3://made-{region}/store", region) for _ in range(2))
    assert (first.returncode, first.stdout) == (0, f"The bucket made-{region} is made\n"), first.stderr
    assert (second.returncode, second.stdout) == (0, "")
    client = boto3.client("s3", endpoint_url=s3_endpoint, region_name=region, aws_access_key_id="key",
                          aws_secret_access_key="secret")
    found = client.get_bucket_location(Bucket=f"made-{region}")["LocationConstraint"]
    assert found == (None if region == "us-east-1" else region)


def test_the_logs_bucket_is_made_too_and_another_one_than_s3_is_refused(s3_endpoint: str) -> None:
    made = make(s3_endpoint, "s3://for-artifacts/store", logs="s3://for-logs/airflow")
    assert (made.returncode, made.stdout) == (0, "The bucket for-artifacts is made\nThe bucket for-logs is made\n")
    refused = make(s3_endpoint, "s3://for-artifacts/store", logs="/opt/logs")
    assert (refused.returncode, refused.stderr) == (
        78, "LOGS is '/opt/logs': a cluster needs s3://bucket/prefix in .env.\n")


@pytest.mark.parametrize("store", ["/scratch/store", "s3://", "s3:///prefix"])
def test_a_store_without_a_bucket_is_refused(store: str) -> None:
    refused = make("http://127.0.0.1:9", store)
    assert (refused.returncode, refused.stderr) == (
        78, f"CARCLF_STORE is {store!r}: a cluster needs s3://bucket/prefix in .env.\n")


def test_a_store_that_does_not_answer_is_told_with_the_settings_to_look_at() -> None:
    refused = make("http://127.0.0.1:9", "s3://bucket/store")
    assert refused.returncode == 78
    assert refused.stderr.startswith(
        "The bucket bucket of CARCLF_STORE cannot be looked at or made: Could not connect to the endpoint")
    assert "AWS_ENDPOINT_URL_S3" in refused.stderr and "Traceback" not in refused.stderr
