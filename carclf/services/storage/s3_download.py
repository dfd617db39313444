"""Fetching a file from S3: in parts, several at once, each checked, taken up where it was cut off."""

import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from carclf.errors import DataError, ServiceError
from carclf.progress import log
from carclf.services.storage.disk_full import raise_if_disk_full
from carclf.services.storage.s3_parts import MAX_ATTEMPTS, Part, map_parts, parse_parts_metadata, part_digest

_BLOCK = 1 << 20


class _Replaced(Exception):
    """Another object took the place of the one that is fetched."""


def download_object(client: Any, named: Mapping[str, str], path: Path) -> None:
    """Fetch an object that tells of its parts; what an earlier process fetched of it is checked and kept.

    Whatever does not tell of its parts is fetched by boto3. DataError where a part is damaged each time.
    """
    for _ in range(MAX_ATTEMPTS):
        head = client.head_object(**named)
        if (parts := parse_parts_metadata(head["Metadata"], head["ContentLength"])) is None:
            return _download_others(client, named, path)
        try:
            with _partial(path, f"{named} {head['ETag']}") as (temporary, file):
                _fill(client, {**named, "IfMatch": head["ETag"]}, parts, file)
                temporary.replace(path)
            return None
        except _Replaced:
            continue
    raise ServiceError(f"{named['Key']} was replaced {MAX_ATTEMPTS} times while it was fetched. Try again.")


def _download_others(client: Any, named: Mapping[str, str], path: Path) -> None:
    temporary = path.parent / f"~{uuid.uuid4().hex}"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with raise_if_disk_full(path):
            client.download_file(named["Bucket"], named["Key"], str(temporary))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _fill(client: Any, named: Mapping[str, str], parts: Sequence[Part], file: int) -> None:
    missing = list(parts)
    if os.fstat(file).st_size:
        missing = [part for part in parts if not _is_part(part, file)]
        log.info("download: %d of %d parts of %s are here already", len(parts) - len(missing), len(parts), named["Key"])
    if size := parts[-1].start + parts[-1].num_bytes:
        os.posix_fallocate(file, 0, size)  # a full disk shows now, and not after an hour
        map_parts(missing, partial(_fetch, client, named, file))
    os.fsync(file)


def _fetch(client: Any, named: Mapping[str, str], file: int, part: Part) -> None:
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

    reason: Exception | None = None
    for tries in range(MAX_ATTEMPTS):
        time.sleep(0.5 * tries)
        try:
            if _copied(client, named, file, part):
                return
            reason = None
        except client.exceptions.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 412:
                raise _Replaced from error
            raise
        except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError, ConnectionError) as error:
            reason = error
        log.warning("download: part %d of %s %s; it is fetched again", part.number, named["Key"],
                    "was cut off" if reason else "arrived damaged")
    if reason:
        raise ServiceError(f"{named['Key']} is cut off each time it is fetched: {reason}. Try again later: what has "
                           "come is kept.") from reason
    raise DataError(f"Part {part.number} of {named['Key']} arrives damaged each time: it is not what was uploaded. "
                    "Run again with force to make it anew, or restore it from a backup.")


def _copied(client: Any, named: Mapping[str, str], file: int, part: Part) -> bool:
    """Copy one part to its place in the file; whether it is what it should be."""
    end = part.start + part.num_bytes
    answer = client.get_object(**named, Range=f"bytes={part.start}-{end - 1}")
    digest, position = hashlib.sha256(), part.start
    for block in answer["Body"].iter_chunks(_BLOCK):
        if position + len(block) > end:
            return False  # a server that knows no ranges
        os.pwrite(file, block, position)
        digest.update(block)
        position += len(block)
    return digest.digest().startswith(part.digest)


def _is_part(part: Part, file: int) -> bool:
    return part_digest(file, part.start, part.num_bytes).startswith(part.digest)


@contextmanager
def _partial(path: Path, what: str) -> Iterator[tuple[Path, int]]:
    """A file beside the path that outlasts an interruption, but not a full disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lasting = path.parent / f"~{hashlib.sha256(what.encode()).hexdigest()[:32]}"
    with raise_if_disk_full(path):
        temporary, file = _locked(lasting)
        try:
            yield temporary, file
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            if temporary != lasting:
                temporary.unlink(missing_ok=True)
            os.close(file)


def _locked(lasting: Path) -> tuple[Path, int]:
    """The lasting file, or one of one's own while another process is filling that one."""
    file = os.open(lasting, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if lasting.exists() and lasting.stat().st_ino == os.fstat(file).st_ino:  # and not yet whole and renamed
            return lasting, file
    except BlockingIOError:
        log.debug("Another process fetches the same file")
    os.close(file)
    own = lasting.with_name(f"~{uuid.uuid4().hex}")
    return own, os.open(own, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
