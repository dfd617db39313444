"""Folders with tiny files as the sources of images: detection opens none of them."""

from collections.abc import Iterable, Mapping
from pathlib import Path


def write_files(folder: Path, images: Iterable[str], tables: Mapping[str, str | bytes]) -> Path:
    """Write images, each of its own size, and tables; return the folder."""
    for number, path in enumerate(images):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"x" * number)
    for path, content in tables.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder
