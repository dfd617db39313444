"""A full disk, told by its name."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from carclf.errors import ConfigError

_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def raise_if_disk_full(path: Path) -> Iterator[None]:
    """ConfigError where the disk that a file is written to becomes full: which disk, and what is left on it."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise ConfigError(_full_disk(str(path), path)) from error


def disk_full_message(error: BaseException, folders: list[Path]) -> str | None:
    """What to say of an error that a full disk was the reason of, whoever raised it; None where it was not.

    Libraries lose the file's name: then it is said of that one of the folders that has the least space left.
    """
    found: BaseException | None = error
    while found is not None:
        if getattr(found, "errno", None) in _FULL or os.strerror(errno.ENOSPC) in str(found):
            if isinstance(name := getattr(found, "filename", None), str):
                return _full_disk(name, Path(name))
            folder = min((*folders, Path(tempfile.gettempdir())), key=lambda one: shutil.disk_usage(_there(one)).free)
            return _full_disk(f"a file in {folder}", folder)
        found = found.__cause__ or found.__context__
    return None


def _full_disk(what: str, path: Path) -> str:
    folder = _there(path)
    mount = next(parent for parent in (folder, *folder.parents) if os.path.ismount(parent))
    left = shutil.disk_usage(folder)
    return (f"The disk is full: {what} could not be written; {left.free / 1e6:.0f} of {left.total / 1e6:.0f} MB are "
            f"free on {mount}. Free some, or set CARCLF_CACHE and TMPDIR to folders on a larger disk.")


def _there(path: Path) -> Path:
    """The path, or what there is above it."""
    whole = path.absolute()
    return next(folder for folder in (whole, *whole.parents) if folder.is_dir())
