"""What an entry of the gallery contains, and what must be detected in it."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from carclf.demo.gallery.files import Files, write_files

OWNER = "demo"  # of the datasets


@dataclass(frozen=True)
class Rendering:
    """The files of the source, and the truth for each id of the sample submission, in Kaggle's form.

    The truth is the class, or the name of its column if the submission has a column per class. It is empty if there is
    nothing to submit.
    """

    files: Files
    truth: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Expected:
    """What must be detected: the values of Layout, and words of the detections.

    ``labels`` is a value of ``data.label_source``, ``id_form`` one of ``data.id_form`` ("" without ids),
    ``num_images`` the images by source, and ``kind`` that of the submission ("" without one). ``class_names`` are in
    any order.
    """

    labels: Literal["folders", "table", "file_names", "json"]
    id_form: str
    class_names: tuple[str, ...]
    num_images: Mapping[str, int]
    metric: str = "accuracy"
    kind: Literal["label", "positive", "probabilities", ""] = ""
    num_groups: int = 0


@dataclass(frozen=True)
class Rejection:
    """Why a source is rejected, as sentences for the page, and the setting that resolves it or a word of the error."""

    reason: str
    setting: str = ""
    word: str = ""


@dataclass(frozen=True)
class Entry:
    """A competition, a dataset or a folder of the gallery.

    ``like`` names the real one whose layout it has, ``particular`` is a line about what differs from others.
    ``settings`` is the setting that it needs besides ``data.source``. ``evaluation_metric`` is Kaggle's text.
    """

    name: str
    kind: Literal["competition", "dataset", "folder"]
    like: str
    particular: str
    draw: Callable[[np.random.Generator], Rendering]
    expected: Expected | Rejection
    evaluation_metric: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    notebooks_only: bool = False

    @property
    def source(self) -> str:
        """The value of ``data.source``."""
        prefix = {"competition": "", "dataset": f"kaggle://{OWNER}/", "folder": "./"}[self.kind]
        return prefix + self.name

    def render(self) -> Rendering:
        """Return the files; the same bytes each time."""
        return self.draw(np.random.default_rng(zlib.crc32(self.name.encode())))

    def write(self, folder: Path) -> Rendering:
        """Write the files to a folder and return them with the truth."""
        rendering = self.render()
        write_files(rendering.files, folder)
        return rendering
