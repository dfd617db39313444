"""Create the buckets of CARCLF_STORE and LOGS_URL unless they exist, and the store of a new deployment."""

import os
import sys

import boto3
import sqlalchemy
from botocore.exceptions import BotoCoreError, ClientError

from carclf.errors import CarclfError
from carclf.services.storage import init_store

EXIT_CONFIG = 78
MISSING = ("404", "NoSuchBucket")


def create_bucket(bucket: str) -> bool:
    """Create the bucket in the client's region; return False if it exists."""
    client = boto3.client("s3")
    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] not in MISSING:
            raise
        region = client.meta.region_name
        # S3 requires the region everywhere but in us-east-1, where it rejects it.
        location = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        client.create_bucket(Bucket=bucket, **location)
        return True
    return False


def ensure_bucket(name: str, url: str) -> int:
    """Create the bucket of a setting's URL if it is missing; return 0, or 78 after printing the problem."""
    bucket = url.removeprefix("s3://").partition("/")[0]
    if not url.startswith("s3://") or not bucket:
        print(f"Invalid {name}={url!r}: expected s3://bucket/prefix. Set it in .env.", file=sys.stderr)
        return EXIT_CONFIG
    try:
        if create_bucket(bucket):
            print(f"Created the bucket {bucket}")
    except (ClientError, BotoCoreError) as error:
        print(f"Cannot create the bucket {bucket} of {name}: {error}. Check {name}, STORE_ACCESS_KEY, "
              "STORE_SECRET_KEY, AWS_ENDPOINT_URL_S3 and AWS_DEFAULT_REGION in .env; the key needs s3:ListBucket.",
              file=sys.stderr)
        return EXIT_CONFIG
    return 0


def has_dag_runs() -> bool:
    """Return whether the deployment has run a DAG: then a missing store is lost, and must not be created again."""
    engine = sqlalchemy.create_engine(os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
    with engine.connect() as connection:
        return connection.scalar(sqlalchemy.text("SELECT 1 FROM dag_run LIMIT 1")) is not None


def main() -> int:
    """Return 0 if both buckets exist now, and the store in a new deployment."""
    urls = {"CARCLF_STORE": os.environ["CARCLF_STORE"],
            "LOGS_URL": os.environ["AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER"]}
    for name, url in urls.items():
        if status := ensure_bucket(name, url):
            return status
    try:
        if not has_dag_runs():
            init_store(urls["CARCLF_STORE"])
    except CarclfError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
