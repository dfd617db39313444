"""Make the buckets of CARCLF_STORE and LOGS where they are not there yet; one that exists is left as it is."""

import os
import sys

import boto3
from botocore.exceptions import BotoCoreError, ClientError


def make(bucket: str) -> bool:
    """Whether it had to be made; in the client's region, which S3 wants to be told outside of us-east-1."""
    client = boto3.client("s3")
    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchBucket"):
            raise
        region = client.meta.region_name
        there = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        client.create_bucket(Bucket=bucket, **there)
        return True
    return False


def require(name: str, url: str) -> int:
    """0 when the bucket that the setting names is there; else a word about what to look at."""
    bucket = url.removeprefix("s3://").partition("/")[0]
    if not url.startswith("s3://") or not bucket:
        print(f"{name} is {url!r}: a cluster needs s3://bucket/prefix in .env.", file=sys.stderr)
        return 78
    try:
        if make(bucket):
            print(f"The bucket {bucket} is made")
    except (ClientError, BotoCoreError) as error:
        print(f"The bucket {bucket} of {name} cannot be looked at or made: {error}. Check {name}, STORE_ACCESS_KEY, "
              "STORE_SECRET_KEY, AWS_ENDPOINT_URL_S3 and AWS_DEFAULT_REGION in .env; the key needs s3:ListBucket.",
              file=sys.stderr)
        return 78
    return 0


def main() -> int:
    """0 when both are there."""
    urls = {"CARCLF_STORE": os.environ["CARCLF_STORE"],
            "LOGS": os.environ["AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER"]}
    return next((status for name, url in urls.items() if (status := require(name, url))), 0)


if __name__ == "__main__":
    sys.exit(main())
