"""Make the bucket of CARCLF_STORE where it is not there yet; a bucket that exists is left as it is."""

import os
import sys

import boto3
from botocore.exceptions import ClientError


def main() -> int:
    """0 when the bucket is there."""
    bucket = os.environ["CARCLF_STORE"].removeprefix("s3://").partition("/")[0]
    client = boto3.client("s3")
    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchBucket"):
            raise
        client.create_bucket(Bucket=bucket)
        print(f"The bucket {bucket} is made")
    return 0


if __name__ == "__main__":
    sys.exit(main())
