"""A cache of decoded training images: one memory-mapped file of images, no larger than the largest crop needs."""

import fcntl
import hashlib
import math
import os
import shutil
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from carclf.artifacts import atomic_folder, cache_folder, file_sha256, fingerprint
from carclf.errors import DataError
from carclf.images.decode import ImageDecodeError, Pixels, decode, read_image_bytes
from carclf.images.letterbox import resize_to_fit
from carclf.os_errors import disk_full_message
from carclf.progress import log

VERSION = 4  # of the file format and of the decoding: change it when either changes
CHUNK_SIZE = 256  # images in memory at once while the cache is written
MAX_ATTEMPTS = 3  # to create a cache that is damaged or removed by another process each time
GRAY = 128
CHANNELS = 3


class ImageFiles:
    """Images decoded from their files at each access, by position, reduced to fit (height, width)."""

    def __init__(self, paths: list[Path | None], height: int, width: int) -> None:
        self.paths = paths
        self.height, self.width = height, width

    def __getitem__(self, position: int) -> Pixels:
        """Return uint8 RGB pixels, flat gray if the path is None. Raises DataError if it cannot be read."""
        if (path := self.paths[position]) is None:
            return np.full((self.height, self.width, CHANNELS), GRAY, np.uint8)
        try:
            # Validation has already rejected images that are too large.
            return read_image(path, self.height, self.width, max_megapixels=math.inf)
        except (ImageDecodeError, OSError) as error:
            raise DataError(f"Cannot read {path}, which was intact during validation: {error}. Empty the cache folder "
                            "and run again.") from error


def read_image(path: Path, height: int, width: int, *, max_megapixels: float) -> Pixels:
    """Decode an image file to uint8 RGB, reduced to fit (height, width). Raises ImageDecodeError or OSError."""
    data = read_image_bytes(path, max_megapixels)
    pixels = decode(data, min_size=(height, width), max_megapixels=max_megapixels)
    return resize_to_fit(pixels, height, width)


class DecodedImages:
    """Decoded images in a folder with ``pixels.bin``, ``shapes.npy`` and ``sha256``, by position.

    A shared lock keeps other processes from removing the folder while this object exists. Raises OSError or
    ValueError if files are missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        file = (folder / "pixels.bin").open("rb")
        weakref.finalize(self, file.close)
        fcntl.flock(file, fcntl.LOCK_SH)
        if file_sha256(folder / "pixels.bin") != (folder / "sha256").read_text() or self._ends[-1] != len(self._pixels):
            raise ValueError(f"{folder} is damaged")

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}  # each process maps the file itself

    @cached_property
    def _shapes(self) -> npt.NDArray[np.int64]:
        return np.asarray(np.load(self.folder / "shapes.npy"))

    @cached_property
    def _ends(self) -> list[int]:
        return [0, *np.cumsum(self._shapes.prod(1) * CHANNELS).tolist()]

    @cached_property
    def _pixels(self) -> npt.NDArray[np.uint8]:
        return np.memmap(self.folder / "pixels.bin", np.uint8, "r")

    def __getitem__(self, position: int) -> Pixels:
        start, end = self._ends[position], self._ends[position + 1]
        return np.asarray(self._pixels[start:end]).reshape(*self._shapes[position], CHANNELS)


def cache_decoded(files: ImageFiles, key: str, *, max_bytes: float) -> ImageFiles | DecodedImages:
    """Return the images decoded into this machine's cache, or ``files`` if the cache has no room for them.

    ``key`` identifies the content and the order of the files. All caches together take at most ``max_bytes``; the
    least recently used are removed first.
    """
    num_bytes = len(files.paths) * files.height * files.width * CHANNELS
    if num_bytes > max_bytes:
        return files
    name = fingerprint(version=VERSION, decoded=key, height=files.height, width=files.width)
    folder = cache_folder() / "decoded" / name
    for _ in range(MAX_ATTEMPTS):
        if not _create(folder, files, max_bytes - num_bytes):
            break
        if (decoded := _open(folder)) is not None:
            return decoded
    return files


def _create(folder: Path, files: ImageFiles, max_other_bytes: float) -> bool:
    """Write the cache unless it exists; return False if there is no room for it."""
    try:
        if not folder.exists() and not _make_room(folder.parent, max_other_bytes):
            return False
        with atomic_folder(folder) as work:
            if work is not None:
                _write(files, work)
    except OSError as error:
        if not (message := disk_full_message(error, [folder.parent])):
            raise
        log.warning("decode_cache: disk full, images are decoded in each epoch folder=%s. %s", folder.parent, message)
        return False
    return True


def _open(folder: Path) -> DecodedImages | None:
    """Open a cache and mark it as used; remove it and return None if it is damaged."""
    try:
        decoded = DecodedImages(folder)
    except FileNotFoundError:  # another process removed it before it was locked here
        shutil.rmtree(folder, ignore_errors=True)
    except (OSError, ValueError) as error:
        log.warning("decode_cache: damaged, rebuilding it error=%s", error)
        shutil.rmtree(folder)
    else:
        os.utime(folder, ns=(time.time_ns(),) * 2)  # a finer resolution than the kernel's clock for files
        return decoded
    return None


def _make_room(parent: Path, max_bytes: float) -> bool:
    """Remove the least recently used caches until the others take at most ``max_bytes``.

    Caches in use are kept. Return False if they exceed the limit.
    """
    parent.mkdir(parents=True, exist_ok=True)
    caches = sorted(parent.iterdir(), key=lambda path: path.stat().st_mtime)
    sizes = {path: sum(file.stat().st_size for file in path.glob("*")) for path in caches}
    for path in caches:
        if sum(sizes.values()) > max_bytes and sizes[path] and not _is_locked(path):
            shutil.rmtree(path, ignore_errors=True)
            del sizes[path]
    return sum(sizes.values()) <= max_bytes


def _is_locked(folder: Path) -> bool:
    """Return whether a process reads or writes the cache. The kernel releases a killed process's lock."""
    try:
        with (folder / "pixels.bin").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _write(files: ImageFiles, folder: Path) -> None:
    positions = range(len(files.paths))
    shapes: list[tuple[int, ...]] = []
    digest = hashlib.sha256()
    with ThreadPoolExecutor() as pool, (folder / "pixels.bin").open("wb") as output:
        fcntl.flock(output, fcntl.LOCK_EX)
        for start in positions[::CHUNK_SIZE]:
            for pixels in pool.map(files.__getitem__, positions[start : start + CHUNK_SIZE]):
                shapes.append(pixels.shape[:2])
                content = pixels.tobytes()
                digest.update(content)
                output.write(content)
    np.save(folder / "shapes.npy", np.array(shapes, np.int64).reshape(-1, 2))
    (folder / "sha256").write_text(digest.hexdigest())
