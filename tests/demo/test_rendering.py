"""The rendered competition: its layout, its broken files, and its bytes, which depend on the seed only."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from carclf.demo.rendering import car_image, render_competition
from carclf.errors import ConfigError


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_gives_the_same_bytes(rendered: Path, tmp_path: Path) -> None:
    render_competition(tmp_path, num_train=40, num_test=20)
    assert contents(tmp_path) == contents(rendered)


def test_another_seed_gives_other_images(rendered: Path, tmp_path: Path) -> None:
    render_competition(tmp_path, num_train=40, num_test=20, seed=1)
    assert not set(contents(tmp_path).values()) & {
        data for name, data in contents(rendered).items() if name.startswith("test_upload")
    }


def test_the_tables_list_exactly_the_images(rendered: Path) -> None:
    train, sample, truth = (pd.read_csv(rendered / f"{name}.csv") for name in ("train", "sample-submission", "truth"))
    on_disk = sorted((path.name, int(path.parent.name)) for path in rendered.glob("train/*/*"))
    assert sorted(train.itertuples(index=False, name=None)) == on_disk
    assert train.Category.is_monotonic_increasing
    assert sorted(sample.Id) == sorted(path.name for path in (rendered / "test_upload").iterdir())
    assert list(truth.Id) == list(sample.Id) != sorted(sample.Id)
    assert (set(sample.Category), Counter(truth.Category)) == ({0}, dict.fromkeys(range(10), 2))


def test_five_unusual_files_and_two_copies_are_added(rendered: Path) -> None:
    formats = {}
    for path in rendered.glob("train/*/*.jpg"):
        try:
            with Image.open(path) as image:
                image.load()
                formats[path.name] = f"{image.format} {image.mode}"
        except OSError:
            formats[path.name] = "unreadable"
    assert Counter(formats.values()) == {"JPEG RGB": 42, "unreadable": 3, "PNG RGB": 1, "JPEG L": 1}
    copies = Counter(path.read_bytes() for path in rendered.glob("train/*/*.jpg")).values()
    assert sorted(copies)[-3:] == [1, 2, 2]


def test_images_of_a_class_vary_in_size() -> None:
    rng = np.random.default_rng(0)
    images = [Image.open(io.BytesIO(car_image(3, rng))) for _ in range(8)]
    assert len({image.size for image in images}) == 8
    assert all(240 <= image.width <= 400 for image in images)


def test_too_few_images_for_the_classes_raise_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="9 and 20 images"):
        render_competition(tmp_path, num_train=9, num_test=20)
