"""Folders with tiny images: detection opens none of them."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from carclf.config import Config
from carclf.dataset.detection.detect import detect
from carclf.dataset.detection.result import Layout

Source = Callable[..., Path]
Detect = Callable[..., Layout]


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


@pytest.fixture
def layout_of(tmp_path: Path) -> Detect:
    """Return a function that writes images and tables and detects their layout."""

    def run(images: Iterable[str], tables: Mapping[str, str | bytes] | None = None, metric: str = "",
            **settings: Any) -> Layout:
        folder = write_files(tmp_path / "source", images, tables or {})
        data = {name: value for name, value in settings.items() if name not in ("sample", "kind", "positive_class")}
        submit = {name: value for name, value in settings.items() if name in ("sample", "kind", "positive_class")}
        return detect(folder, Config(data=data, submit=submit), metric)

    return run
