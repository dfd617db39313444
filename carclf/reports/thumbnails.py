"""Thumbnails as data URIs."""

import base64
from collections.abc import Iterable
from pathlib import Path

import cv2

from carclf.images.decode import ImageDecodeError, Pixels, decode, read_image_bytes
from carclf.images.letterbox import resize_to_fit

HEIGHT = 120  # pixels
WIDTH = 160
QUALITY = 60  # about 4 kB each


class Thumbnails:
    """Create thumbnails of the images in a folder, each only once; of ``unreadable`` paths none is attempted."""

    def __init__(self, folder: Path, unreadable: Iterable[str] = ()) -> None:
        self.folder = folder
        self.cache = dict.fromkeys(unreadable, "")

    def __call__(self, path: str) -> str:
        """Return the data URI of the image at a path, relative to the folder; empty if it cannot be decoded."""
        if path not in self.cache:
            try:
                pixels = decode(read_image_bytes(self.folder / path), min_size=(HEIGHT, WIDTH))
            except (ImageDecodeError, OSError, ValueError):  # ValueError: not a valid file name
                self.cache[path] = ""
            else:
                self.cache[path] = data_uri(pixels)
        return self.cache[path]


def data_uri(pixels: Pixels) -> str:
    """Return uint8 RGB pixels as a JPEG of at most ``HEIGHT`` x ``WIDTH``."""
    thumbnail = resize_to_fit(pixels, HEIGHT, WIDTH)
    jpeg = cv2.imencode(".jpg", thumbnail[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
