"""Sending a file to S3: in parts, several at once, each with its SHA-256, taken up where it was cut off."""

import base64
import hashlib
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from carclf.progress import log
from carclf.services.storage.s3_parts import (
    MAX_ATTEMPTS,
    Part,
    map_parts,
    parse_parts_metadata,
    part_digest,
    parts_metadata,
    split_file,
)

Sent = dict[str, Any]
# What S3 says of a part that is not what its checksum says.
_DAMAGED = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}
_NOT_TO_BE_LISTED = {"AccessDenied", "NotImplemented", "MethodNotAllowed"}
_ABANDONED = timedelta(days=1)


def upload_file(client: Any, named: Mapping[str, str], path: Path) -> None:
    """Put a file; a large one that was sent in part before, by anyone, goes on from there.

    An upload in S3 stays until it is ended, and lists its parts with their checksums: nothing is noted elsewhere.
    """
    parts = split_file(path)
    if len(parts) == 1:
        put_object(client, named, path.read_bytes())
    else:
        _send_unless_there(client, named, path, parts)


def _send_unless_there(client: Any, named: Mapping[str, str], path: Path, parts: Sequence[Part]) -> None:
    # Other workers with the same file may have taken up the same upload; the first of them ends it for all.
    for tries in range(1, MAX_ATTEMPTS + 1):
        if _is_there(client, named, parts):
            return
        try:
            _send(client, named, path, parts)
            return
        except client.exceptions.ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchUpload" or tries == MAX_ATTEMPTS:
                raise
            time.sleep(0.5 * tries)


def put_object(
    client: Any, named: Mapping[str, str], data: bytes, metadata: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Put bytes, with a checksum that S3 compares on arrival and one that whoever reads them does."""
    part = Part(1, 0, len(data), hashlib.sha256(data).digest())
    client.put_object(**named, Body=data, ChecksumSHA256=_coded(part), Metadata={**parts_metadata([part]), **metadata})


def _send(client: Any, named: Mapping[str, str], path: Path, parts: Sequence[Part]) -> None:
    upload_id, sent = _begun(client, named, path, parts) or (_begin(client, named, parts), {})
    if sent:
        log.info("upload: %d of %d parts of %s are in the store already", len(sent), len(parts), path.name)
    missing = [part for part in parts if part.number not in sent]
    new = map_parts(missing, partial(_send_part, client, {**named, "UploadId": upload_id}, path))
    sent = sent | {part.number: answer for part, answer in zip(missing, new, strict=True)}
    listing = {"Parts": [sent[part.number] for part in parts]}
    client.complete_multipart_upload(**named, UploadId=upload_id, MultipartUpload=listing)


def _begin(client: Any, named: Mapping[str, str], parts: Sequence[Part]) -> str:
    begun = client.create_multipart_upload(**named, ChecksumAlgorithm="SHA256", Metadata=parts_metadata(parts))
    return str(begun["UploadId"])


def _send_part(client: Any, named: Mapping[str, str], path: Path, part: Part) -> Sent:
    from s3transfer.utils import ReadFileChunk

    for tries in range(1, MAX_ATTEMPTS + 1):
        try:
            with ReadFileChunk.from_filename(str(path), part.start, part.num_bytes) as body:
                answer = client.upload_part(**named, PartNumber=part.number, Body=body, ChecksumSHA256=_coded(part))
            return _as_sent(part, answer["ETag"])
        except client.exceptions.ClientError as error:
            if error.response["Error"]["Code"] not in _DAMAGED or tries == MAX_ATTEMPTS:
                raise
            log.warning("upload: part %d of %s arrived damaged; it is sent again", part.number, path.name)
            time.sleep(0.5 * tries)
    raise AssertionError("the last try returns or raises")


def _begun(
    client: Any, named: Mapping[str, str], path: Path, parts: Sequence[Part]
) -> tuple[str, dict[int, Sent]] | None:
    """An upload that holds parts of this very file and no others; those of other files, a day old, are ended."""
    for upload_id, begun in _uploads(client, named):
        pages = client.get_paginator("list_parts").paginate(**named, UploadId=upload_id)
        listed = {found["PartNumber"]: found for page in pages for found in page.get("Parts", [])}
        by_number = {part.number: part for part in parts}
        if listed and all(number in by_number and _is_part(found, by_number[number], path)
                          for number, found in listed.items()):
            return upload_id, {number: _as_sent(by_number[number], found["ETag"]) for number, found in listed.items()}
        if datetime.now(UTC) - begun > _ABANDONED:
            client.abort_multipart_upload(**named, UploadId=upload_id)
    return None


def _uploads(client: Any, named: Mapping[str, str]) -> list[tuple[str, datetime]]:
    pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=named["Bucket"], Prefix=named["Key"])
    try:
        return [(found["UploadId"], found["Initiated"]) for page in pages for found in page.get("Uploads", [])
                if found["Key"] == named["Key"]]
    except client.exceptions.ClientError as error:
        # Without this permission everything works but the going on.
        if error.response["Error"]["Code"] not in _NOT_TO_BE_LISTED:
            raise
        return []


def _is_part(listed: Mapping[str, Any], part: Part, path: Path) -> bool:
    if listed["Size"] != part.num_bytes:
        return False
    if "ChecksumSHA256" in listed:
        return bool(listed["ChecksumSHA256"] == _coded(part))
    # Servers that keep no checksums name a part by its MD5; where they do not, it is sent again.
    with path.open("rb") as file:
        digest = part_digest(file.fileno(), part.start, part.num_bytes, "md5")
    return bool(listed["ETag"].strip('"') == digest.hex())


def _is_there(client: Any, named: Mapping[str, str], parts: Sequence[Part]) -> bool:
    try:
        head = client.head_object(**named)
    except client.exceptions.ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return False
        raise
    found = parse_parts_metadata(head["Metadata"], head["ContentLength"]) or []
    return parts_metadata(found) == parts_metadata(parts) if found else False


def _as_sent(part: Part, etag: str) -> Sent:
    return {"PartNumber": part.number, "ETag": etag, "ChecksumSHA256": _coded(part)}


def _coded(part: Part) -> str:
    return base64.b64encode(part.digest).decode()
