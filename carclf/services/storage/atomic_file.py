"""Files that appear under their final name only when they are complete."""

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY_NAME = re.compile(r"~[0-9a-f]{32}")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; move it to ``path`` on success, remove it otherwise."""
    temporary = temporary_path(path)
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """Return an unused path in the folder of ``path``, which is created if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent / f"~{uuid.uuid4().hex}"  # without the file's name: a long name would no longer fit


def sync(path: Path) -> None:
    """Write a file or folder to the disk. Without it, a power cut may undo a rename or leave an empty file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
