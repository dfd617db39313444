"""The Python API, on the small runs of the commands' tests."""

import doctest
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import carclf
from carclf.errors import ConfigError, DataError, NotFoundError
from carclf.services.storage import Store

DOCUMENT = Path(__file__).parents[2] / "docs/python.md"


@pytest.fixture
def model(store: Store) -> carclf.Model:
    return carclf.open_store(store.url).model()


def test_the_examples_of_the_documentation_are_correct(
    store: Store, cars: tuple[Path, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(store.url, tmp_path / "store")
    shutil.copytree(cars[0], tmp_path / "cars")
    first = min((tmp_path / "cars/train/3").iterdir())
    first.rename(first.with_name("000003.jpg"))
    monkeypatch.chdir(tmp_path)
    examples = doctest.DocTestParser().get_doctest(DOCUMENT.read_text(), {}, "python.md", str(DOCUMENT), 0)
    output: list[str] = []
    results = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(examples, out=output.append)
    assert results.failed == 0, "".join(output)
    assert results.attempted > 10


def test_the_import_does_not_wait_for_tensorflow() -> None:
    code = "import sys, carclf; carclf.open_store; assert not {'tensorflow', 'keras'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys, carclf; assert not {'pandas', 'numpy', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_runs_are_a_table(store: Store) -> None:
    runs = carclf.Store(store.url).runs()
    assert set(runs["run"]) == {"fold-0", "fold-1", "seed-0", "seed-1", "wide"}
    assert runs["val_accuracy"].between(0, 1).all()


@pytest.mark.parametrize(("name", "size"), [("champion", (48, 64)), ("wide", (96, 128)), ("wi", (96, 128))])
def test_a_model_is_named_by_its_run(store: Store, name: str, size: tuple[int, int]) -> None:
    assert carclf.open_store(store.url).model(name).image_size == size


def test_paths_and_arrays_are_predicted_alike(model: carclf.Model, cars: tuple[Path, object]) -> None:
    paths = sorted((cars[0] / "train/2").iterdir())[:3]
    table = model.predict(paths)
    assert table["file"].tolist() == list(map(str, paths))
    assert table.filter(regex="^p_").sum(axis=1).to_numpy() == pytest.approx(np.ones(3))
    pixels = np.full((60, 80, 3), 128, np.uint8)
    both = model.predict([pixels, pixels])
    assert both["class"].isin(model.class_names).all() and both["file"].tolist() == ["0", "1"]
    pd.testing.assert_frame_equal(model.predict(pixels), both[:1])


def test_an_unreadable_image_has_the_reason(model: carclf.Model, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image")
    row = model.predict([tmp_path / "a.jpg", tmp_path / "missing.jpg"])
    assert row["class"].isna().all() and (row["error"] != "").all()
    with pytest.raises(DataError, match=r"a\.jpg"):
        model.explain(tmp_path / "a.jpg")


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)])
def test_other_arrays_are_rejected(model: carclf.Model, image: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="uint8"):
        model.predict([image])


def test_a_folder_with_other_classes_cannot_be_measured(
    model: carclf.Model, tmp_path: Path, cars: tuple[Path, object]
) -> None:
    for name in ("sedan", "coupe"):
        shutil.copytree(cars[0] / "train/1", tmp_path / name)
    with pytest.raises(DataError, match="coupe, sedan"):
        model.evaluate(tmp_path)


def test_mistakes_are_explained(store: Store, tmp_path: Path) -> None:
    opened = carclf.open_store(store.url)
    with pytest.raises(NotFoundError):
        carclf.open_store(tmp_path / "none")
    with pytest.raises(NotFoundError):
        opened.model("missing")
    with pytest.raises(ConfigError, match="evaluate"):
        opened.table("evalute", "predictions.parquet")
    with pytest.raises(DataError, match=r"predictions\.parquet"):
        opened.table("evaluate", "prediction.parquet")
    with pytest.raises(ConfigError, match=r"fine_tune\.epochs"):
        carclf.train("cars", tmp_path / "new", fine_tune__epoch=3)
    with pytest.raises(AttributeError):
        carclf.opne_store  # noqa: B018
