"""The rendered competition has the real one's layout, its usual faults, and the same bytes each time."""

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


def test_another_seed_gives_other_pictures(rendered: Path, tmp_path: Path) -> None:
    render_competition(tmp_path, num_train=40, num_test=20, seed=1)
    assert not set(contents(tmp_path).values()) & {
        data for name, data in contents(rendered).items() if name.startswith("test_upload")
    }


def test_the_tables_name_exactly_the_pictures(rendered: Path) -> None:
    train, sample, truth = (pd.read_csv(rendered / f"{name}.csv") for name in ("train", "sample-submission", "truth"))
    on_disk = sorted((path.name, int(path.parent.name)) for path in rendered.glob("train/*/*"))
    assert sorted(train.itertuples(index=False, name=None)) == on_disk
    assert train.Category.is_monotonic_increasing
    assert sorted(sample.Id) == sorted(path.name for path in (rendered / "test_upload").iterdir())
    assert list(truth.Id) == list(sample.Id) != sorted(sample.Id)
    assert (set(sample.Category), Counter(truth.Category)) == ({0}, dict.fromkeys(range(10), 2))


def test_five_odd_files_and_two_copies_are_planted(rendered: Path) -> None:
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


def test_pictures_of_a_class_vary_in_size_and_look() -> None:
    rng = np.random.default_rng(0)
    pictures = [Image.open(io.BytesIO(car_image(3, rng))) for _ in range(8)]
    assert len({image.size for image in pictures}) == 8
    assert all(240 <= image.width <= 400 for image in pictures)


def test_too_few_pictures_for_the_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 10 of each"):
        render_competition(tmp_path, num_train=9, num_test=20)
