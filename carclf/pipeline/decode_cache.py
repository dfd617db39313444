"""The training pictures decoded once: one memory-mapped file of pixels, reduced to what the largest crop needs."""

import fcntl
import hashlib
import math
import os
import shutil
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from carclf.artifacts import atomic_folder, cache_folder, file_sha256, fingerprint
from carclf.errors import DataError
from carclf.images.decode import ImageDecodeError, Pixels, decode
from carclf.progress import log
from carclf.services.storage import disk_full_message

VERSION = 3  # of what is written: another way of decoding needs another number
CHUNK = 256  # pictures that are held in memory at once
TRIES = 3  # of making a cache that is damaged, or gone, as soon as it is there


class ImageFiles:
    """Pictures read and decoded from their files each time, by position, no larger than fits (height, width)."""

    def __init__(self, paths: list[Path | None], height: int, width: int) -> None:
        self.paths, self.height, self.width = paths, height, width

    def __getitem__(self, position: int) -> Pixels:
        """Flat grey where the path is None.

        Raises DataError for a file that cannot be decoded: validation found it whole.
        """
        if (path := self.paths[position]) is None:
            return np.full((self.height, self.width, 3), 128, np.uint8)
        try:
            # no limit here: validation has refused what is too large
            return read_image(path, self.height, self.width, max_megapixels=math.inf)
        except (ImageDecodeError, OSError) as error:
            raise DataError(f"{path} was whole when it was validated and cannot be read now: {error}. Empty the cache "
                            "folder and run again.") from error


def read_image(path: Path, height: int, width: int, *, max_megapixels: float) -> Pixels:
    """The picture in a file, no larger than fits (height, width). Raises Undecodable and OSError."""
    pixels = decode(path.read_bytes(), frame=(height, width), max_megapixels=max_megapixels)
    return _reduced(pixels, height, width)


class DecodedImages:
    """The same pictures out of a folder with ``pixels.bin``, ``shapes.npy`` and ``sha256``, by position.

    Nothing removes the folder while this is there. Raises OSError and ValueError where it is not whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, locked = folder, (folder / "pixels.bin").open("rb")
        weakref.finalize(self, locked.close)
        fcntl.flock(locked, fcntl.LOCK_SH)
        if file_sha256(folder / "pixels.bin") != (folder / "sha256").read_text() or self._ends[-1] != len(self._pixels):
            raise ValueError(f"{folder} is damaged")

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}  # each process maps the file itself

    @cached_property
    def _shapes(self) -> npt.NDArray[np.int64]:
        return np.asarray(np.load(self.folder / "shapes.npy"))

    @cached_property
    def _ends(self) -> list[int]:
        return [0, *np.cumsum(self._shapes.prod(1) * 3).tolist()]

    @cached_property
    def _pixels(self) -> npt.NDArray[np.uint8]:
        return np.memmap(self.folder / "pixels.bin", np.uint8, "r")

    def __getitem__(self, position: int) -> Pixels:
        begin, end = self._ends[position], self._ends[position + 1]
        height, width = self._shapes[position]
        return np.asarray(self._pixels[begin:end]).reshape(height, width, 3)


def cache_decoded(files: ImageFiles, key: str, *, max_bytes: float) -> ImageFiles | DecodedImages:
    """The pictures decoded into this machine's cache, or the files themselves where it has no room for them.

    ``key`` names the files' content and order. All such caches together take at most ``max_bytes``.
    """
    num_bytes = len(files.paths) * files.height * files.width * 3
    name = fingerprint(version=VERSION, decoded=key, height=files.height, width=files.width)
    folder = cache_folder() / "decoded" / name
    for _ in range(TRIES if num_bytes <= max_bytes else 0):
        try:
            with atomic_folder(folder) as work:
                if work is not None:
                    if not _make_room(folder.parent, max_bytes - num_bytes, work):
                        break
                    _write(files, work)
        except OSError as error:
            if not (full := disk_full_message(error, [folder.parent])):
                raise
            log.warning("The disk has no room to keep the decoded pictures under %s: they are read from their files. "
                        "%s", folder.parent, full)
            break
        try:
            decoded = DecodedImages(folder)
        except FileNotFoundError:  # another process needed the room before it was locked here
            shutil.rmtree(folder, ignore_errors=True)
        except (OSError, ValueError) as error:
            log.warning("The cache of decoded pictures cannot be used and is made anew: %s", error)
            shutil.rmtree(folder)
        else:
            os.utime(folder, ns=(time.time_ns(),) * 2)  # finer than the kernel's own clock for files
            return decoded
    return files


def _make_room(parent: Path, max_bytes: float, own: Path) -> bool:
    """Remove the folders that were used the longest time ago, and that nobody uses, until the rest takes at most
    ``max_bytes``; False where it takes more.
    """
    others = sorted((path for path in parent.iterdir() if path != own), key=lambda path: path.stat().st_mtime)
    sizes = {path: sum(file.stat().st_size for file in path.glob("*")) for path in others}
    for path in others:
        if sum(sizes.values()) > max_bytes and sizes[path] and not _in_use(path):
            shutil.rmtree(path, ignore_errors=True)
            del sizes[path]
    return sum(sizes.values()) <= max_bytes


def _in_use(folder: Path) -> bool:
    """Whether a process reads or writes the folder's pixels; one that was killed does not."""
    try:
        with (folder / "pixels.bin").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _write(files: ImageFiles, folder: Path) -> None:
    starts = [*range(0, len(files.paths), CHUNK), len(files.paths)]
    shapes: list[tuple[int, ...]] = []
    digest = hashlib.sha256()
    with ThreadPoolExecutor() as pool, (folder / "pixels.bin").open("wb") as output:
        fcntl.flock(output, fcntl.LOCK_EX)
        for begin, end in pairwise(starts):
            for pixels in pool.map(files.__getitem__, range(begin, end)):
                shapes.append(pixels.shape[:2])
                content = pixels.tobytes()
                digest.update(content)
                output.write(content)
    np.save(folder / "shapes.npy", np.array(shapes, np.int64).reshape(-1, 2))
    (folder / "sha256").write_text(digest.hexdigest())


def _reduced(pixels: Pixels, height: int, width: int) -> Pixels:
    """The picture where it fits into (height, width), else reduced to fit: by areas, so that nothing aliases."""
    scale = min(height / pixels.shape[0], width / pixels.shape[1])
    if scale >= 1:
        return pixels
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
