"""Error messages that name the full disk."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from carclf.errors import ConfigError

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def raise_if_disk_full(path: Path) -> Iterator[None]:
    """Raise ConfigError with the disk and its free space if the disk fills up while ``path`` is written."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise ConfigError(_format_message(str(path), path)) from error


def disk_full_message(error: BaseException, folders: list[Path]) -> str | None:
    """Return the message for an error that a full disk caused, directly or indirectly; None for other errors.

    If the error does not name the file, the message names the folder of ``folders`` with the least free space.
    """
    cause: BaseException | None = error
    while cause is not None:
        if getattr(cause, "errno", None) in _DISK_FULL or os.strerror(errno.ENOSPC) in str(cause):
            if isinstance(name := getattr(cause, "filename", None), str):
                return _format_message(name, Path(name))
            candidates = [*folders, Path(tempfile.gettempdir())]
            folder = min(candidates, key=lambda path: shutil.disk_usage(_existing_folder(path)).free)
            return _format_message(f"a file in {folder}", folder)
        cause = cause.__cause__ or cause.__context__
    return None


def _format_message(subject: str, path: Path) -> str:
    folder = _existing_folder(path)
    mount = next(parent for parent in (folder, *folder.parents) if os.path.ismount(parent))
    files = os.statvfs(folder)
    if files.f_files and not files.f_favail:
        return (f"{mount} has no free inodes: {subject} could not be written, because the disk already contains "
                f"{files.f_files} files and folders. Remove some, or set CARCLF_CACHE and TMPDIR to folders on another "
                "disk.")
    disk = shutil.disk_usage(folder)
    return (f"The disk is full: {subject} could not be written; {disk.free / 1e6:.0f} of {disk.total / 1e6:.0f} MB are "
            f"free on {mount}. Free space, or set CARCLF_CACHE and TMPDIR to folders on a larger disk.")


def _existing_folder(path: Path) -> Path:
    """Return the path if it is a folder, otherwise its nearest existing parent folder."""
    absolute = path.absolute()
    return next(folder for folder in (absolute, *absolute.parents) if folder.is_dir())
