"""A store in an S3 bucket, or in anything that speaks S3 (AWS_ENDPOINT_URL_S3 names it)."""

import hashlib
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from carclf.errors import CarclfError, ConfigError, DataError, ServiceError
from carclf.services.storage.protocol import VersionedObject, validate_key, validate_prefix
from carclf.services.storage.s3_download import download_object
from carclf.services.storage.s3_parts import MAX_ATTEMPTS, parse_parts_metadata
from carclf.services.storage.s3_upload import put_object, upload_file

_MISSING = {"NoSuchKey", "404", "NotFound"}
_LOST_RACE = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_THROTTLED = {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestTimeout",
              "TooManyRequests", "429"}  # fmt: skip


class S3Store:
    """Objects are S3 objects under the prefix; the version is the ETag."""

    def __init__(self, url: str) -> None:
        self.bucket, _, prefix = url.removeprefix("s3://").strip("/").partition("/")
        if not self.bucket:
            raise ConfigError(f"The store {url!r} names no bucket; give s3://bucket/prefix.")
        self.prefix = f"{prefix}/" if prefix else ""
        self.url = f"s3://{self.bucket}/{prefix}".rstrip("/")
        with self._errors():
            self._client = _connect()

    def read(self, key: str) -> VersionedObject | None:
        """The object, or None where there is none."""
        name = self._name(key)
        with self._errors():
            try:
                return self._read(name)
            except self._client.exceptions.ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise

    def _read(self, name: str) -> VersionedObject:
        from botocore.exceptions import FlexibleChecksumError, IncompleteReadError, ResponseStreamingError

        # boto sends a request again, but not for a body that was cut off or damaged on its way.
        for tries in range(1, MAX_ATTEMPTS + 1):
            try:
                answer = self._client.get_object(Bucket=self.bucket, Key=name)
                data = answer["Body"].read()
                parts = parse_parts_metadata(answer["Metadata"], len(data)) or []
                if len(parts) != 1 or hashlib.sha256(data).digest().startswith(parts[0].digest):
                    return VersionedObject(data, answer["ETag"])
            except (FlexibleChecksumError, IncompleteReadError, ResponseStreamingError):
                if tries == MAX_ATTEMPTS:
                    raise
            time.sleep(0.5 * tries)
        raise DataError(f"{self.bucket}/{name} arrives damaged each time: it is not what was written. Restore it from "
                        "a backup.")

    def write(self, key: str, data: bytes) -> None:
        """Put the object, replacing what is there."""
        name = self._name(key)
        with self._errors():
            put_object(self._client, {"Bucket": self.bucket, "Key": name}, data)

    def write_if(self, key: str, data: bytes, version: str | None) -> bool:
        """Put the object if its version is still this one (None: if there is none); False if it is not."""
        name, mark = self._name(key), uuid.uuid4().hex
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        with self._errors():
            try:
                put_object(self._client, {"Bucket": self.bucket, "Key": name, **condition}, data, {"write": mark})
            except self._client.exceptions.ClientError as error:
                if _code(error) not in _LOST_RACE | _MISSING:
                    raise
                return self._was_ours(error, name, mark)
        return True

    def _was_ours(self, error: Exception, name: str, mark: str) -> bool:
        # boto sends a write again when its answer was lost, and the second then fails against the first.
        if not _metadata(error).get("RetryAttempts"):
            return False
        try:
            head = self._client.head_object(Bucket=self.bucket, Key=name)
        except self._client.exceptions.ClientError as failure:
            if _code(failure) in _MISSING:
                return False
            raise
        return bool(head["Metadata"].get("write") == mark)

    def download(self, key: str, path: Path) -> None:
        """Copy the object to a local file, atomically; KeyError where there is none."""
        named = {"Bucket": self.bucket, "Key": self._name(key)}
        with self._errors():
            try:
                download_object(self._client, named, path)
            except self._client.exceptions.ClientError as error:
                if _code(error) not in _MISSING:
                    raise
                # A HEAD has no body to tell a missing object from a missing bucket.
                self._client.list_objects_v2(Bucket=self.bucket, MaxKeys=1)
                raise KeyError(key) from error

    def upload(self, path: Path, key: str) -> None:
        """Copy a local file to the object."""
        named = {"Bucket": self.bucket, "Key": self._name(key)}
        with self._errors():
            upload_file(self._client, named, path)

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """Every key that starts with the prefix, in sorted order."""
        start = self.prefix + validate_prefix(prefix)
        with self._errors():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=start)
            names = [item["Key"] for page in pages for item in page.get("Contents", [])]
        yield from sorted(name.removeprefix(self.prefix) for name in names if not name.endswith("/"))

    def _name(self, key: str) -> str:
        return self.prefix + validate_key(key)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            raise self._refusal(error) from error
        except (BotoCoreError, Boto3Error) as error:
            raise self._failure(error) from error

    def _refusal(self, error: Exception) -> CarclfError:
        code, status = _code(error), _metadata(error).get("HTTPStatusCode", 0)
        if status >= 500 or status == 429 or code in _THROTTLED:
            return ServiceError(f"The store {self.url} failed for the moment: {error}. Try again later.")
        if code in _MISSING | {"NoSuchBucket"}:
            return ConfigError(f"There is no bucket {self.bucket!r}: {error}. Check the bucket's name, or create it.")
        return ConfigError(
            f"The store {self.url} refused: {error}. Check the AWS credentials and their region, and allow them "
            "s3:GetObject, s3:PutObject and s3:ListBucket on this bucket."
        )

    def _failure(self, error: Exception) -> CarclfError:
        from botocore import exceptions as known

        unset = (known.NoCredentialsError, known.PartialCredentialsError, known.CredentialRetrievalError,
                 known.ProfileNotFound, known.NoRegionError, known.TokenRetrievalError, known.SSOError)  # fmt: skip
        if isinstance(error, unset):
            return ConfigError(
                f"No usable AWS credentials for {self.url}: {error}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "or a profile in ~/.aws, or give the machine a role."
            )
        if isinstance(error, (known.ParamValidationError, ValueError)):
            return ConfigError(f"The store {self.url} cannot be: {error}. Mend its URL or AWS_ENDPOINT_URL.")
        return ServiceError(f"The store {self.url} cannot be reached: {error}. Try again later; if it stays, "
                            "check the network and AWS_ENDPOINT_URL.")  # fmt: skip


def _connect() -> Any:
    import boto3
    from botocore.config import Config

    # A session of its own: boto3's default one is not safe to make clients from in several threads.
    # AWS_MAX_ATTEMPTS says how often a request is sent: a cluster's workers sit out a minute, a terminal does not.
    # Checksums are asked for by name and here: what boto does unasked changed in 2025, and other servers stumbled.
    config = Config(retries={"mode": "standard"}, connect_timeout=10, read_timeout=60,
                    request_checksum_calculation="when_required", response_checksum_validation="when_supported")
    try:
        return boto3.session.Session().client("s3", config=config)
    except ValueError as error:
        raise ConfigError(f"S3 cannot be set up: {error}. Check AWS_ENDPOINT_URL.") from error


def _code(error: Exception) -> str:
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def _metadata(error: Exception) -> dict[str, Any]:
    found: dict[str, Any] = getattr(error, "response", {}).get("ResponseMetadata", {})
    return found
