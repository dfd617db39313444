"""A file in parts, each known by its SHA-256, as an object in S3 tells of itself in its metadata."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

R = TypeVar("R")

MIN_PART_BYTES = 16 << 20
MAX_PARTS = 100  # S3 gives an object's metadata 2 KB: that many digests of 16 digits
NUM_THREADS = 4
MAX_ATTEMPTS = 5
_SIZE, _DIGESTS, _DIGEST_BYTES = "part-size", "part-sha256", 8
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Part:
    """Bytes ``start`` to ``start + num_bytes`` of a file; ``digest`` is their SHA-256, or its first eight bytes."""

    number: int  # from 1, as S3 counts
    start: int
    num_bytes: int
    digest: bytes


def split_file(path: Path) -> list[Part]:
    """The parts in which a file is sent: one where it is small, a hundred at most."""
    size = path.stat().st_size
    part_bytes = max(MIN_PART_BYTES, -(-size // MAX_PARTS))
    with path.open("rb") as file:
        return [
            Part(number, start, min(part_bytes, size - start), part_digest(file.fileno(), start, part_bytes))
            for number, start in enumerate(range(0, max(size, 1), part_bytes), 1)
        ]


def part_digest(file: int, start: int, num_bytes: int, kind: str = "sha256") -> bytes:
    """The digest of bytes in the middle of an open file."""
    digest, end = hashlib.new(kind, usedforsecurity=False), start + num_bytes
    while start < end and (block := os.pread(file, min(_BLOCK, end - start), start)):
        digest.update(block)
        start += len(block)
    return digest.digest()


def parts_metadata(parts: Sequence[Part]) -> dict[str, str]:
    """What an object says of its parts."""
    digests = "".join(part.digest[:_DIGEST_BYTES].hex() for part in parts)
    return {_SIZE: str(parts[0].num_bytes), _DIGESTS: digests}


def parse_parts_metadata(metadata: Mapping[str, str], size: int) -> list[Part] | None:
    """What an object of this size says of its parts; None where it does not: another program put it there."""
    try:
        part_bytes, digests = int(metadata[_SIZE]), bytes.fromhex(metadata[_DIGESTS])
    except (KeyError, ValueError):
        return None
    starts = range(0, max(size, 1), max(part_bytes, 1))
    if len(digests) != _DIGEST_BYTES * len(starts):
        return None
    return [
        Part(number, start, min(part_bytes, size - start), digests[_DIGEST_BYTES * (number - 1):][:_DIGEST_BYTES])
        for number, start in enumerate(starts, 1)
    ]


def map_parts(parts: Sequence[Part], work: Callable[[Part], R]) -> list[R]:
    """What the work on each part gives, several at once; where one fails, what has not begun never does."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        futures = [pool.submit(work, part) for part in parts]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        failed = [error for future in futures if not future.cancelled() and (error := future.exception())]
        if failed:
            raise failed[0]
        return [future.result() for future in futures]
