"""The files below a folder, and why some of them cannot be used."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from carclf.dataset.layout import HIDDEN, IMAGE_SUFFIXES, hidden_folder, is_in_junk_folder, is_junk_file


class Entry(NamedTuple):
    """A file: its path in the source, its size in bytes, and a version that changes with its content.

    An empty folder is an entry as well; its path ends in a slash.
    """

    path: str
    num_bytes: int
    version: str  # time of the last change in nanoseconds, or ETag


class Skipped(NamedTuple):
    """A path that cannot be used, and the reason as the end of a sentence."""

    path: str
    reason: str


def walk(folder: Path, prefix: str = "", parents: tuple[tuple[int, int], ...] = ()) -> Iterator[Entry | Skipped]:
    """Yield the files below a folder and the empty folders, without hidden ones and those of file managers.

    Links to files and folders are followed. ``prefix`` is the folder's path in the source, with a slash at the end, and
    ``parents`` are the devices and inodes of the folders above it. Skipped are hidden folders with images, and images
    that this user may not read; a table or an archive is not, because the other files could mean something else without
    it. Raises OSError if a folder cannot be read.
    """
    status = folder.stat()
    identity = status.st_dev, status.st_ino
    if identity in parents:
        yield Skipped(prefix[:-1], "it is a link to a folder that contains it")
        return
    with os.scandir(folder) as scanned:
        items = list(scanned)
    yield from [Skipped(f"{prefix}{item.name}", HIDDEN) for item in items if _has_hidden_images(item)]
    is_empty = True
    for item in [item for item in items if not is_junk_file(item.name)]:
        path = f"{prefix}{item.name}"
        if isinstance(item_status := _stat(item), str):
            yield Skipped(path, item_status)
        elif not stat.S_ISDIR(item_status.st_mode):
            is_empty = False
            yield Entry(path, item_status.st_size, str(item_status.st_mtime_ns))
        elif not is_in_junk_folder((item.name, "")):
            is_empty = False
            yield from walk(folder / item.name, f"{path}/", (*parents, identity))
    if is_empty and prefix:
        yield Entry(prefix, 0, "")


def _has_hidden_images(item: "os.DirEntry[str]") -> bool:
    return item.name.startswith(".") and item.is_dir() and any(
        hidden_folder((item.name, name)) for _, _, names in os.walk(item) for name in names)


def _stat(item: "os.DirEntry[str]") -> os.stat_result | str:
    """Return the status of a file or a folder, or the reason why it cannot be used."""
    try:
        status = item.stat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP) or not item.is_symlink():
            raise
        return "it is a broken link"
    if stat.S_ISDIR(status.st_mode):
        return status
    if not stat.S_ISREG(status.st_mode):  # a pipe would block
        return "it is a device or a pipe"
    is_image = os.path.splitext(item.name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 (a million paths)
    return "this user may not read it" if is_image and not os.access(item.path, os.R_OK) else status
