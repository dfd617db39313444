"""Objects of a bucket that other programs wrote: listed with sizes and ETags, and downloaded in any version once."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from carclf.errors import ObjectAccessError, SourceChangedError
from carclf.os_errors import raise_if_disk_full
from carclf.services.storage.s3 import S3Store, _code, _retry

_CHANGED = {"PreconditionFailed", "412", "NoSuchKey", "404", "NotFound"}
_INACCESSIBLE = {"AccessDenied", "InvalidObjectState", "KMS.DisabledException", "KMS.NotFoundException"}
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class BucketObject:
    """An object: its path below the prefix, its size in bytes, and its version (ETag)."""

    path: str
    num_bytes: int
    version: str


class Bucket(S3Store):
    """The objects under ``s3://bucket/prefix``. Their keys may have any characters, unlike those of a store."""

    def list_objects(self) -> Iterator[BucketObject]:
        """Yield the objects, page by page, without the empty objects that mark folders."""
        with self._translate_errors():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
            for page in pages:
                for item in page.get("Contents", []):
                    if not item["Key"].endswith("/"):
                        yield BucketObject(item["Key"].removeprefix(self.prefix), item["Size"], item["ETag"])

    def fetch(self, entry: BucketObject, path: Path) -> None:
        """Download an object in the listed version.

        Raise SourceChangedError if it was changed or removed since, ObjectAccessError if it may not be read.
        """
        name = self.prefix + entry.path

        def get() -> None:
            response = self._client.get_object(Bucket=self.bucket, Key=name, IfMatch=entry.version)
            with path.open("wb") as file:
                shutil.copyfileobj(response["Body"], file, _BLOCK_BYTES)

        with self._translate_errors(), raise_if_disk_full(path):
            try:
                _retry(get, name)
            except self._client.exceptions.ClientError as error:
                if _code(error) in _INACCESSIBLE:
                    raise ObjectAccessError(
                        f"{self.url}/{entry.path} cannot be read: {error}. Allow s3:GetObject for it and kms:Decrypt "
                        "for its key, or restore it if it is archived.") from error
                if _code(error) not in _CHANGED:
                    raise
                raise SourceChangedError(f"{self.url}/{entry.path} was changed while it was read. Run download again "
                                         "while nobody writes to this prefix.") from error
