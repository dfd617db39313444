"""A folder of small random images, and the examples of its index."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from carclf.pipeline.batches import Examples

NUM_IMAGES = 23


@pytest.fixture(scope="package")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(NUM_IMAGES):
        cv2.imwrite(str(folder / f"{number}.png"), random.integers(0, 256, (60 + number, 80, 3), np.uint8))
    return folder


@pytest.fixture
def examples(image_folder: Path) -> Examples:
    """Examples for the size (48, 64), labeled by their position."""
    paths = [f"{number}.png" for number in range(NUM_IMAGES)]
    rows = pd.DataFrame({"path": paths, "class_index": range(NUM_IMAGES), "problem": ""})
    return Examples.from_index(rows, image_folder, (48, 64))
