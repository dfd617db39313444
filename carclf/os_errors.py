"""Errors of the operating system, explained: a full disk, missing permissions, too few open files, no home folder."""

import errno
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from carclf.errors import ConfigError

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
# A run of the demo in a folder needs 24 files, S3 needs more, and each process that inspects images needs 3.
MIN_OPEN_FILES = 56 + 4 * max(2, len(os.sched_getaffinity(0)))


def expand_home(path: str | os.PathLike[str], setting: str) -> Path:
    """Replace ``~`` and ``~user`` at the start of a path; raise ConfigError with the setting if there is no home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"{setting}: the home folder in {os.fspath(path)!r} is unknown. Use an absolute path, or set "
                          "HOME.") from None


def require_shared_memory() -> None:
    """Raise ConfigError if processes cannot share memory, which a training with num_workers needs."""
    if not os.access("/dev/shm", os.W_OK | os.X_OK):
        raise ConfigError("fine_tune.num_workers needs /dev/shm, which is missing or cannot be written to. Mount it, "
                          "or set fine_tune.num_workers=0.")


def os_error_message(error: BaseException, folders: list[Path]) -> str | None:
    """Return the message for an error that the user can fix outside of carclf; None for other errors.

    If a full disk's error does not name the file, the message names the folder of ``folders`` with the least space.
    """
    return disk_full_message(error, folders) or next(filter(None, map(_explain, _causes(error))), None)


def _explain(error: BaseException) -> str | None:
    number: int = getattr(error, "errno", None) or 0
    name = getattr(error, "filename", None)
    if number in _DENIED and name:
        return (f"{name} cannot be used: {os.strerror(number)}. carclf writes to the store, CARCLF_CACHE and TMPDIR: "
                "set them to folders that this user may write to, or fix the permissions.")
    if "No usable temporary directory" in str(error):
        return f"{getattr(error, 'strerror', error)}. Set TMPDIR to a folder that this user may write to."
    if number in (errno.EMFILE, errno.ENFILE):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return (f"This process may not open more than {limit} files. Raise the limit with "
                f"`ulimit -n {max(MIN_OPEN_FILES, 2 * limit)}`.")
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


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
    for cause in _causes(error):
        if getattr(cause, "errno", None) in _DISK_FULL or os.strerror(errno.ENOSPC) in str(cause):
            if isinstance(name := getattr(cause, "filename", None), str):
                return _format_message(name, Path(name))
            candidates = [*folders, Path(tempfile.gettempdir())]
            folder = min(candidates, key=lambda path: shutil.disk_usage(_existing_folder(path)).free)
            return _format_message(f"a file in {folder}", folder)
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
