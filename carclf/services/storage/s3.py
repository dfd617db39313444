"""A store in an S3 bucket, or on any server that speaks S3 (set AWS_ENDPOINT_URL_S3)."""

import base64
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from carclf.errors import CarclfError, ConfigError, DataError, NotFoundError, ServiceError
from carclf.os_errors import raise_if_disk_full
from carclf.progress import log
from carclf.proxies import find_proxy_error
from carclf.services.storage.atomic_file import atomic_path
from carclf.services.storage.protocol import VersionedObject, validate_key, validate_prefix

T = TypeVar("T")

PART_BYTES = 16 << 20  # larger files are transferred in parts of this size
NUM_THREADS = 4
MAX_ATTEMPTS = 5
BACKOFF_SECONDS = 0.5  # multiplied by the number of attempts
MAX_UPLOAD_DAYS = 1  # an older upload belongs to a killed process
_BLOCK_BYTES = 1 << 20

_MISSING = {"NoSuchKey", "404", "NotFound"}
_LOST_RACE = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_THROTTLED = {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestTimeout",
              "TooManyRequests", "429"}  # fmt: skip
_CLOCK_SKEW = {"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"}
# The bytes that the server received do not match the checksum in the request.
_DAMAGED_UPLOAD = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}


class S3Store:
    """Objects are S3 objects under the prefix; the version is the ETag.

    boto3 sends a CRC32 with each upload, which the server verifies. A download is compared with the CRC32 on the
    server. If there is none, the download is not checked; artifacts also have a SHA-256 in their manifest.
    """

    def __init__(self, url: str) -> None:
        self.bucket, _, prefix = url.removeprefix("s3://").strip("/").partition("/")
        if not self.bucket:
            raise ConfigError(f"Invalid store URL {url!r}: the bucket is missing. Use s3://bucket/prefix.")
        self.prefix = f"{prefix}/" if prefix else ""
        self.url = f"s3://{self.bucket}/{prefix}".rstrip("/")
        with self._translate_errors():
            self._client = _connect()

    def read(self, key: str) -> VersionedObject | None:
        """Return the object, or None if it does not exist."""
        name = self._name(key)

        def get() -> VersionedObject:
            response = self._client.get_object(Bucket=self.bucket, Key=name)
            return VersionedObject(response["Body"].read(), response["ETag"])

        with self._translate_errors():
            try:
                return _retry(get, name)
            except self._client.exceptions.ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise

    def write(self, key: str, data: bytes) -> None:
        """Create or replace the object."""
        name = self._name(key)
        with self._translate_errors():
            _retry(lambda: self._client.put_object(Bucket=self.bucket, Key=name, Body=data), name)

    def write_if(self, key: str, data: bytes, version: str | None) -> bool:
        """Write the object if its version is still ``version`` (None: if it does not exist); return False if not."""
        name = self._name(key)
        write_id = uuid.uuid4().hex
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        arguments = {"Bucket": self.bucket, "Key": name, "Body": data, "Metadata": {"write-id": write_id}, **condition}
        with self._translate_errors():
            try:
                _retry(lambda: self._client.put_object(**arguments), name)
            except self._client.exceptions.ClientError as error:
                if _code(error) not in _LOST_RACE | _MISSING:
                    raise
                return self._is_repeated_write(error, name, write_id)
        return True

    def _is_repeated_write(self, error: Exception, name: str, write_id: str) -> bool:
        # boto3 repeats a write whose response was lost. The second write then fails because the first succeeded.
        if not _response_metadata(error).get("RetryAttempts"):
            return False
        try:
            head = self._client.head_object(Bucket=self.bucket, Key=name)
        except self._client.exceptions.ClientError as head_error:
            if _code(head_error) in _MISSING:
                return False
            raise
        return bool(head["Metadata"].get("write-id") == write_id)

    def download(self, key: str, path: Path) -> None:
        """Copy the object to a local file, atomically; raise KeyError if the object does not exist."""
        name = self._name(key)
        with self._translate_errors():
            try:
                with raise_if_disk_full(path), atomic_path(path) as temporary:
                    _retry(lambda: self._download(name, temporary), name)
            except self._client.exceptions.ClientError as error:
                if _code(error) not in _MISSING:
                    raise
                # The response to HEAD has no body that would distinguish a missing object from a missing bucket.
                self._client.list_objects_v2(Bucket=self.bucket, MaxKeys=1)
                raise KeyError(key) from error

    def _download(self, name: str, path: Path) -> None:
        from botocore.exceptions import FlexibleChecksumError

        self._client.download_file(self.bucket, name, str(path), Config=_transfer_config())
        # botocore checks whole objects only: the ranges of a large file pass unchecked.
        head = self._client.head_object(Bucket=self.bucket, Key=name, ChecksumMode="ENABLED")
        # An object uploaded in parts by another program ("-" in the ETag) may have a checksum of its parts' checksums.
        covers_object = head.get("ChecksumType") == "FULL_OBJECT" or "-" not in head["ETag"]
        expected = head.get("ChecksumCRC32")
        if expected and covers_object and _crc32(path) != expected:
            raise FlexibleChecksumError(error_msg=f"its CRC32 is not {expected}")

    def upload(self, path: Path, key: str) -> None:
        """Copy a local file to the object."""
        name = self._name(key)
        with self._translate_errors():
            _retry(lambda: self._upload(path, name), name)

    def _upload(self, path: Path, name: str) -> None:
        from boto3.exceptions import S3UploadFailedError

        arguments = {}
        if self._client.meta.config.request_checksum_calculation == "when_supported":
            # Of the checksums that S3 keeps for a whole multipart object, CRC32 needs no extra package.
            arguments = {"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"}
        try:
            self._client.upload_file(str(path), self.bucket, name, ExtraArgs=arguments, Config=_transfer_config())
        except S3UploadFailedError as error:
            raise error.__context__ or error from error  # the ClientError, with the server's code

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """Yield every key that starts with the prefix, in sorted order."""
        start = self.prefix + validate_prefix(prefix)
        with self._translate_errors():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=start)
            names = [item["Key"] for page in pages for item in page.get("Contents", [])]
        yield from sorted(name.removeprefix(self.prefix) for name in names if not name.endswith("/"))

    def remove_leftovers(self) -> int:
        """Abort the multipart uploads that started more than MAX_UPLOAD_DAYS ago; return their number.

        In a store without a prefix, they may belong to other programs, so they are kept.
        """
        if not self.prefix:
            return 0
        limit = datetime.now(UTC) - timedelta(days=MAX_UPLOAD_DAYS)
        with self._translate_errors():
            paginator = self._client.get_paginator("list_multipart_uploads")
            pages = paginator.paginate(Bucket=self.bucket, Prefix=self.prefix)
            uploads = [upload for page in pages for upload in page.get("Uploads", []) if upload["Initiated"] < limit]
            return sum(self._abort(upload["Key"], upload["UploadId"]) for upload in uploads)

    def _abort(self, name: str, upload_id: str) -> bool:
        try:
            self._client.abort_multipart_upload(Bucket=self.bucket, Key=name, UploadId=upload_id)
        except self._client.exceptions.NoSuchUpload:  # another process was faster
            return False
        return True

    def _name(self, key: str) -> str:
        return self.prefix + validate_key(key)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            raise self._response_error(error) from error
        except (BotoCoreError, Boto3Error) as error:
            raise self._client_error(error) from error

    def _response_error(self, error: Exception) -> CarclfError:
        if proxy_error := find_proxy_error(f"The store {self.url} cannot be reached", error):
            return proxy_error
        code = _code(error)
        status = _response_metadata(error).get("HTTPStatusCode", 0)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or code in _THROTTLED:
            return ServiceError(f"Temporary failure of the store {self.url}: {error}. Try again later.")
        if code in _MISSING | {"NoSuchBucket"}:
            return NotFoundError(f"The bucket {self.bucket!r} does not exist: {error}. Check its name, or create it.")
        if code in _CLOCK_SKEW:
            return ConfigError(f"The store {self.url} rejected a request because of the time in it, "
                               f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC: {error}. Set this machine's clock.")
        return ConfigError(f"The store {self.url} rejected a request: {error}. Check the AWS credentials and their "
                           "region, and allow s3:GetObject, s3:PutObject, s3:ListBucket, s3:AbortMultipartUpload and "
                           "s3:ListBucketMultipartUploads on this bucket.")

    def _client_error(self, error: Exception) -> CarclfError:
        from boto3.exceptions import Boto3Error
        from botocore import exceptions

        if proxy_error := find_proxy_error(f"The store {self.url} cannot be reached", error):
            return proxy_error
        credentials = (
            exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.CredentialRetrievalError,
            exceptions.ProfileNotFound, exceptions.NoRegionError, exceptions.TokenRetrievalError, exceptions.SSOError,
        )  # fmt: skip
        if isinstance(error, credentials):
            return ConfigError(f"No usable AWS credentials for {self.url}: {error}. Set AWS_ACCESS_KEY_ID and "
                               "AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws, or give the machine a role.")
        if isinstance(error, (exceptions.ParamValidationError, ValueError)):
            return ConfigError(f"Invalid store {self.url}: {error}. Fix its URL or AWS_ENDPOINT_URL.")
        network = (
            exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError,
            exceptions.MetadataRetrievalError, exceptions.FlexibleChecksumError, Boto3Error,
        )  # fmt: skip
        if not isinstance(error, network):
            return ConfigError(f"Invalid AWS configuration: {error}. Fix the file or the variable AWS_* that sets it.")
        return ServiceError(f"The store {self.url} cannot be reached: {error}. Try again later; if it keeps failing, "
                            "check the network and AWS_ENDPOINT_URL.")  # fmt: skip


def _connect() -> Any:
    import boto3
    from botocore.config import Config

    # A new session: boto3's default session cannot create clients in several threads.
    # AWS_MAX_ATTEMPTS limits the attempts per request: workers of a cluster retry for a minute, a terminal does not.
    config = Config(retries={"mode": "standard"}, connect_timeout=10, read_timeout=60)
    try:
        return boto3.session.Session().client("s3", config=config)
    except ValueError as error:
        raise ConfigError(f"Invalid S3 configuration: {error}. Check AWS_ENDPOINT_URL, the other variables that start "
                          "with AWS_, and ~/.aws/config.") from error


def _transfer_config() -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(
        multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=NUM_THREADS,
        num_download_attempts=MAX_ATTEMPTS,
    )  # fmt: skip


def _retry(transfer: Callable[[], T], name: str) -> T:
    """Repeat a transfer that was damaged, or whose object was replaced meanwhile; botocore retries the other faults."""
    from botocore.exceptions import ClientError, FlexibleChecksumError, IncompleteReadError, ResponseStreamingError
    from s3transfer.exceptions import S3DownloadFailedError

    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            return transfer()
        except (FlexibleChecksumError, IncompleteReadError, ResponseStreamingError, S3DownloadFailedError) as error:
            reason: Exception = error
        except ClientError as error:
            if _code(error) not in _DAMAGED_UPLOAD:
                raise
            reason = error
        log.warning("store: transfer failed object=%s attempt=%d reason=%s", name, attempt, reason)
        time.sleep(BACKOFF_SECONDS * attempt)
    if isinstance(reason, FlexibleChecksumError):
        raise DataError(f"{name} was damaged in each of {MAX_ATTEMPTS} downloads: {reason}. Rebuild it (carclf store "
                        "check --repair), or restore it from a backup.") from reason
    raise ServiceError(f"{name} could not be transferred in {MAX_ATTEMPTS} attempts: {reason}. Try again.") from reason


def _crc32(path: Path) -> str:
    """Return the CRC32 of a file as S3 writes it, in base64."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return base64.b64encode(checksum.to_bytes(4, "big")).decode()


def _code(error: Exception) -> str:
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def _response_metadata(error: Exception) -> dict[str, Any]:
    return dict(getattr(error, "response", {}).get("ResponseMetadata", {}))
