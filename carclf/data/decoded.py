"""The training pictures decoded once: one memory-mapped file of pixels, reduced to what the largest crop needs."""

import math
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from carclf.artifacts import cache_folder, fingerprint, whole_folder
from carclf.data.images import Pixels, Undecodable, decode
from carclf.errors import DataError

VERSION = 2  # of what is written: another way of decoding needs another number
CHUNK = 256  # pictures that are held in memory at once


class Files:
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
            return read_picture(path, self.height, self.width, max_megapixels=math.inf)
        except (Undecodable, OSError) as error:
            raise DataError(f"{path} was whole when it was validated and cannot be read now: {error}. Empty the cache "
                            "folder and run again.") from error


def read_picture(path: Path, height: int, width: int, *, max_megapixels: float) -> Pixels:
    """The picture in a file, no larger than fits (height, width). Raises Undecodable and OSError."""
    pixels = decode(path.read_bytes(), frame=(height, width), max_megapixels=max_megapixels)
    return _reduced(pixels, height, width)


class Decoded:
    """The same pictures out of a folder with ``pixels.bin`` and ``shapes.npy``, by position."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

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


def decode_once(files: Files, key: str, *, max_bytes: float) -> Files | Decoded:
    """The pictures decoded into this machine's cache, or the files themselves where they would need more room.

    ``key`` names the files' content and order. All such caches together take at most ``max_bytes``.
    """
    num_bytes = len(files.paths) * files.height * files.width * 3
    if num_bytes > max_bytes:
        return files
    name = fingerprint(version=VERSION, decoded=key, height=files.height, width=files.width)
    folder = cache_folder() / "decoded" / name
    with whole_folder(folder) as work:
        if work is not None:
            _make_room(folder.parent, max_bytes - num_bytes, work)
            _write(files, work)
    os.utime(folder, ns=(time.time_ns(),) * 2)  # finer than the kernel's own clock for files
    return Decoded(folder)


def _make_room(parent: Path, max_bytes: float, own: Path) -> None:
    """Remove the folders that were used the longest time ago until the rest takes at most ``max_bytes``."""
    others = sorted((path for path in parent.iterdir() if path != own), key=lambda path: path.stat().st_mtime)
    sizes = {path: sum(file.stat().st_size for file in path.glob("*")) for path in others}
    for path in others:
        if sum(sizes.values()) <= max_bytes:
            return
        shutil.rmtree(path, ignore_errors=True)
        del sizes[path]


def _write(files: Files, folder: Path) -> None:
    starts = [*range(0, len(files.paths), CHUNK), len(files.paths)]
    shapes: list[tuple[int, ...]] = []
    with ThreadPoolExecutor() as pool, (folder / "pixels.bin").open("wb") as output:
        for begin, end in pairwise(starts):
            for pixels in pool.map(files.__getitem__, range(begin, end)):
                shapes.append(pixels.shape[:2])
                output.write(pixels.tobytes())
    np.save(folder / "shapes.npy", np.array(shapes, np.int64).reshape(-1, 2))


def _reduced(pixels: Pixels, height: int, width: int) -> Pixels:
    """The picture where it fits into (height, width), else reduced to fit: by areas, so that nothing aliases."""
    scale = min(height / pixels.shape[0], width / pixels.shape[1])
    if scale >= 1:
        return pixels
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
