"""A full disk, told by its name."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from carclf.errors import ConfigError

_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def room_on(path: Path) -> Iterator[None]:
    """ConfigError where the disk that a file is written to becomes full: which disk, and what is left on it."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise ConfigError(full_disk(path)) from error


def full_disk(path: Path) -> str:
    """What to say of the disk under a path that could not be written to the end."""
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    mount = next(parent for parent in (folder, *folder.parents) if os.path.ismount(parent))
    left = shutil.disk_usage(folder)
    return (f"The disk is full: {path} could not be written; {left.free / 1e6:.0f} of {left.total / 1e6:.0f} MB are "
            f"free on {mount}. Free some, or set CARCLF_CACHE and TMPDIR to folders on a larger disk.")
