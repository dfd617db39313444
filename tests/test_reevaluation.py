"""Measuring past champions on the same new images."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from color_champion import CLASS_NAMES, noisy_image, promote_color_champion
from gate_candidates import build_candidate, build_ensemble, build_split

from carclf.artifacts import Evaluation, Model, StageContext
from carclf.champion import read_state
from carclf.cli.app import main
from carclf.cli.reevaluate import TEST_SET_SETTINGS
from carclf.config import load_config, load_settings
from carclf.errors import ConfigError, DataError
from carclf.reevaluation import LabeledSet, prepare_test_set, reevaluate, trained_on
from carclf.services.storage import Store, init_store

NUM = 24


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(str(tmp_path / "store"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path / "new photos", CLASS_NAMES)


def write_images(folder: Path, labels: list[str]) -> Path:
    """Write images into class folders, eight per color; the first one is in the folder of another class."""
    for number in range(NUM):
        label = labels[1 if number == 0 else number % 3]
        path = folder / label / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noisy_image(CLASS_NAMES[number % 3], number))
    return folder


def prepare(folder: Path, store: Store) -> tuple[LabeledSet, StageContext]:
    config = load_config("demo", {"data.source": str(folder), "validation.min_images_per_class": 2})
    context = StageContext(store, config)
    return prepare_test_set(context), context


def rows_of(images: LabeledSet, *numbers: int) -> pd.DataFrame:
    names = [f"{number:03d}.png" for number in numbers]
    return images.rows[images.rows["path"].str[-7:].isin(names)]


def measure(images: LabeledSet, context: StageContext, last: int = 0) -> list[dict[str, object]]:
    state = read_state(context.store)
    assert state
    return reevaluate(images, state, context, last)


def test_all_champions_are_measured_on_the_images_that_none_was_trained_on(store: Store, folder: Path) -> None:
    images, context = prepare(folder, store)
    assert len(images.rows) == NUM
    first = promote_color_champion(store, "first", rows_of(images, 1, 2, 3))
    second = promote_color_champion(store, "second", rows_of(images, 3, 4))
    rows = measure(images, context)
    assert [row["model"] for row in rows] == [first.key, second.key]
    assert [row["champion"] for row in rows] == [False, True]
    assert [row["num_trained_on"] for row in rows] == [3, 2]
    assert [row["num_images"] for row in rows] == [20, 20]
    for row in rows:
        assert row["metric"] == "accuracy" and row["value"] == row["accuracy"] == pytest.approx(19 / 20)
        assert isinstance(row["low"], float) and isinstance(row["high"], float)
        assert row["low"] < 19 / 20 < row["high"]
    assert [row["num_images"] for row in measure(images, context, last=1)] == [22]


def test_an_evaluation_is_kept_in_the_store_and_reused(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, context = prepare(folder, store)
    promote_color_champion(store, "first")
    [row] = measure(images, context)
    evaluation = Evaluation.require(store, str(row["evaluation"]))
    assert evaluation.metrics["test_accuracy"] == pytest.approx(23 / 24) and evaluation.metrics["subset"] == "test"
    assert {"predictions.parquet", "evaluation.json", "report.html"} <= set(evaluation.files)
    promote_color_champion(store, "second", rows_of(images, 5))
    measured: list[Model] = []
    network = Model.network
    monkeypatch.setattr(Model, "network", lambda model, store: measured.append(model) or network(model, store))
    rows = measure(images, context)
    assert [row["num_images"] for row in rows] == [23, 23]
    assert rows[0]["evaluation"] == evaluation.key and [model.key for model in measured] == [rows[1]["model"]]


def test_an_unknown_class_counts_as_an_error(store: Store, tmp_path: Path) -> None:
    images, context = prepare(write_images(tmp_path / "other", ["blue", "green", "van"]), store)
    promote_color_champion(store, "first")
    [row] = measure(images, context)
    assert row["value"] == pytest.approx(15 / 24)


def test_classes_with_other_names_raise_config_error(store: Store, tmp_path: Path) -> None:
    images, context = prepare(write_images(tmp_path / "other", ["a", "b", "c"]), store)
    promote_color_champion(store, "first")
    with pytest.raises(ConfigError, match=r"data\.class_names"):
        measure(images, context)


def test_images_that_were_all_used_for_training_raise_data_error(store: Store, folder: Path) -> None:
    images, context = prepare(folder, store)
    promote_color_champion(store, "first", images.rows)
    with pytest.raises(DataError, match="24"):
        measure(images, context)


def test_an_ensemble_was_trained_on_the_images_of_its_members(store: Store) -> None:
    subsets = {"a": ["train", "val", "val", "excluded"], "b": ["val", "train", "val", "val"]}
    members = [build_candidate(store, name, split=build_split(store, 4, name, rows)) for name, rows in subsets.items()]
    ensemble = build_ensemble(store, members, [0.5, 0.5], [])
    rows = members[0].split.rows(store).drop(columns="subset")
    assert trained_on(rows, members[0].model, store).tolist() == [True, False, False, True]
    assert trained_on(rows, ensemble.model, store).tolist() == [True, True, False, True]


def test_the_command_prints_a_table_or_json(
    store: Store, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = promote_color_champion(store, "first")
    command = ["carclf", "champion", "reevaluate", str(folder), "--store", store.url, "--recipe", "demo"]
    for options in ([], ["--json", "--result", str(tmp_path / "result.json")]):
        monkeypatch.setattr(sys, "argv", [*command, *options])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
    header, line, *printed = capsys.readouterr().out.splitlines()
    assert header.split() == ["model", "run", "promoted", "accuracy", "95%", "images", "trained", "on"]
    assert line.startswith(f"*  {model.key}") and "0.9583" in line and " 24 " in line
    assert json.loads("\n".join(printed)) == json.loads((tmp_path / "result.json").read_text())


def test_a_policy_tightens_the_settings_of_a_test_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "policy.toml").write_text("[settings]\nvalidation.max_unusable_fraction = 0.05\n")
    monkeypatch.setenv("CARCLF_POLICY", str(tmp_path / "policy.toml"))
    monkeypatch.setenv("CARCLF_SETTINGS", "validation.min_images_per_class=20")

    def limits(*overrides: str) -> tuple[int, float]:
        validation = load_settings("demo", list(overrides), TEST_SET_SETTINGS).validation
        return validation.min_images_per_class, validation.max_unusable_fraction

    assert limits() == (2, 0.05)
    assert limits("validation.min_images_per_class=5") == (5, 0.05)
    with pytest.raises(ConfigError, match=r"validation\.max_unusable_fraction.*policy\.toml"):
        limits("validation.max_unusable_fraction=1")


def test_without_a_champion_the_command_raises_config_error(store: Store, folder: Path) -> None:
    promote_color_champion(store, "first")
    images, context = prepare(folder, store)
    with pytest.raises(ConfigError, match="no champion"):
        reevaluate(images, {"champion": None, "history": [], "metric": "accuracy", "threshold": 0}, context)
