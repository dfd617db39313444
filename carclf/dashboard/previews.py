"""Small pictures of images, where they are to be had without fetching an archive."""

from pathlib import Path

from carclf.artifacts import Archive, cache_folder
from carclf.dashboard.run_sources import RunReader
from carclf.reports.thumbnails import Thumbnails

MAX_MADE = 60  # pictures that are decoded for one page


class Previews:
    """Of a path the picture as a data: URI: from the evaluations' errors, else from this machine's images; else ""."""

    def __init__(self, sources: list[RunReader]) -> None:
        self.known: dict[str, str] = {}
        for own in sources:
            self.known |= _of_errors(own)
        self.folder = sources[0].part("archive", lambda: _images(sources[0]), Path())
        self.make = Thumbnails(self.folder) if self.folder.name and self.folder.is_dir() else None

    def __call__(self, path: str) -> str:
        """The URI; "" where it cannot be had, or where MAX_MADE were made."""
        if found := self.known.get(path):
            return found
        if not path or self.make is None or len(self.make.cache) >= MAX_MADE:
            return ""
        inside = (self.folder / path).resolve().is_relative_to(self.folder.resolve())
        return self.make(path) if inside else ""


def _images(own: RunReader) -> Path:
    """Where this machine has the run's unpacked images, if it has."""
    archive = own.artifact("download")
    return cache_folder() / "images" / archive.content_hash if isinstance(archive, Archive) else Path()


def _of_errors(own: RunReader) -> dict[str, str]:
    def read() -> dict[str, str]:
        errors = (own.parsed("evaluate", "evaluation.json") or {}).get("errors", [])
        pictures = (own.parsed("evaluate", "error_images.json") or []) if errors else []
        return {error["path"]: picture["image"] for error, picture in zip(errors, pictures, strict=False)}

    return own.part("pictures", read, {})
