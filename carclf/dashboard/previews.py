"""Thumbnails of images that are available without downloading an archive."""

from functools import partial
from pathlib import Path

from carclf.artifacts import Archive
from carclf.dashboard.run_reader import RunReader
from carclf.dataset.archives import images_folder
from carclf.reports.thumbnails import Thumbnails

MAX_DECODED = 60  # images that are decoded for one page


class Previews:
    """Thumbnails by path, as data URIs: from the runs' error images, else from the image cache of this machine."""

    def __init__(self, readers: list[RunReader]) -> None:
        self.error_images: dict[str, str] = {}
        for reader in readers:
            images: dict[str, str] = reader.try_section("images", partial(_error_images, reader), {})
            self.error_images |= images
        self.folder = readers[0].try_section("archive", lambda: _image_folder(readers[0]), Path())
        self.thumbnails = Thumbnails(self.folder) if self.folder.name and self.folder.is_dir() else None

    def __call__(self, path: str) -> str:
        """Return the data URI; "" if the image is not available or MAX_DECODED images have been decoded."""
        if uri := self.error_images.get(path):
            return uri
        if not path or self.thumbnails is None or len(self.thumbnails.cache) >= MAX_DECODED:
            return ""
        is_inside = (self.folder / path).resolve().is_relative_to(self.folder.resolve())
        return self.thumbnails(path) if is_inside else ""


def _image_folder(reader: RunReader) -> Path:
    """Return the folder in which this machine caches the run's unpacked images."""
    archive = reader.artifact("download")
    return images_folder(archive) if isinstance(archive, Archive) else Path()


def _error_images(reader: RunReader) -> dict[str, str]:
    errors = (reader.read_json("evaluate", "evaluation.json") or {}).get("errors", [])
    images = (reader.read_json("evaluate", "error_images.json") or []) if errors else []
    return {error["path"]: uris["image"] for error, uris in zip(errors, images, strict=False)}
