"""Temporary files and folders. Their owner locks them, and the kernel unlocks them when the owner is killed."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

IN_TMPDIR = "carclf-temporary-"  # no prefix that a user would choose: these folders are removed
IN_FOLDER = ".carclf-partial-"
MIN_AGE = 10.0  # seconds; a file is locked right after its creation, but not at the same time
MAX_AGE = 86_400.0  # seconds, on a file system without locks


@contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """Yield an empty folder, by default in TMPDIR, and remove it afterwards.

    What killed processes left is removed in TMPDIR, but not in ``parent``, which may be a folder of the user.
    """
    if parent is None:
        remove_abandoned(leftovers())
    else:
        parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=IN_FOLDER if parent else IN_TMPDIR, dir=parent))
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        hold(descriptor)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def leftovers(parent: Path | None = None) -> list[Path]:
    """Return the temporary folders in a folder, by default TMPDIR. Some of them may be in use."""
    paths = parent.glob(f"{IN_FOLDER}*") if parent else Path(tempfile.gettempdir()).glob(f"{IN_TMPDIR}*")
    return [path for path in paths if path.is_dir()]


def hold(descriptor: int) -> None:
    """Mark an open temporary file or folder as in use until it is closed or its process ends."""
    with suppress(OSError):  # not every shared file system has locks: there, MAX_AGE decides
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for a process that checks whether the owner still runs


def remove_abandoned(paths: Iterable[Path]) -> int:
    """Remove the temporary files and folders whose owner was killed; return their number."""
    return sum(_remove_if_abandoned(path) for path in paths)


def _remove_if_abandoned(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:  # its owner has just removed it, or it belongs to another user
        return False
    try:
        # A stage's TMPDIR is a temporary folder of its parent process, which may be killed before the stage ends.
        if not _is_abandoned(descriptor) or not all(map(_remove_if_abandoned, path.glob(f"{IN_TMPDIR}*"))):
            return False
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _is_abandoned(descriptor: int) -> bool:
    age = time.time() - os.fstat(descriptor).st_mtime
    if age <= MIN_AGE:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return age > MAX_AGE
    return True
