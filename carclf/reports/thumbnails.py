"""Small pictures as data: URIs, for pages that are one file."""

import base64
from pathlib import Path

import cv2

from carclf.images.decode import ImageDecodeError, Pixels, decode, read_image_bytes
from carclf.images.letterbox import resize_to_fit

HEIGHT, WIDTH, QUALITY = 120, 160, 60  # about 4 kB each


class Thumbnails:
    """The picture of a path, relative to a folder, as a JPEG in a data: URI; each is made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[str, str] = {}

    def __call__(self, path: str) -> str:
        """The URI, or "" where the file is no usable picture."""
        if path not in self.made:
            self.made[path] = self._make(path)
        return self.made[path]

    def _make(self, path: str) -> str:
        try:
            pixels = decode(read_image_bytes(self.folder / path), min_size=(HEIGHT, WIDTH))
        except (ImageDecodeError, OSError, ValueError):  # ValueError: a name that no file system takes
            return ""
        return data_uri(pixels)


def data_uri(pixels: Pixels) -> str:
    """Pixels, uint8 RGB, as a JPEG of at most HEIGHT times WIDTH."""
    small = resize_to_fit(pixels, HEIGHT, WIDTH)
    data = cv2.imencode(".jpg", small[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
