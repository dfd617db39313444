"""Settings, recipes and overrides."""

from pathlib import Path
from typing import get_args

import pytest

from carclf.config import FAMILY_BY_BACKBONE, RECIPES, Backbone, Config, iter_settings, load_config, parse_override
from carclf.config.backbones import FAMILIES
from carclf.config.sources import require_source
from carclf.errors import ConfigError

THRESHOLDS = {"demo": 0.6, "cpu": 0.7, "cpu-fast": 0.7, "cpu-accurate": 0.7}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_loads(recipe: str) -> None:
    assert load_config(recipe).gate.threshold == THRESHOLDS.get(recipe, 0.93)


def test_every_setting_has_a_description() -> None:
    assert [name for name, field in iter_settings() if not field.description] == []


def test_no_setting_has_two_patterns_of_which_pydantic_ignores_one() -> None:
    patterns = {name: [rule for rule in field.metadata if getattr(rule, "pattern", None)]
                for name, field in iter_settings()}
    assert [name for name, rules in patterns.items() if len(rules) > 1] == []


def test_an_override_changes_one_setting_and_none_keeps_the_recipes_value() -> None:
    plain = load_config("demo")
    changed = load_config("demo", {"fine_tune.epochs": 3, "head.epochs": None})
    assert changed == plain.model_copy(update={"fine_tune": plain.fine_tune.model_copy(update={"epochs": 3})})


XCEPTION = {"model.backbone": "Xception"}  # the recipe's images are too small for it


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ({"fine_tune.global_clipnorm": float("inf")}, ["fine_tune.global_clipnorm"]),
        *(({"model.weights": url}, ["model.weights", "URL"]) for url in ("s3://", "s3://bucket", "s3://bucket/")),
        ({"model.weights": "https://host/w.h5"}, ["model.weights", "s3://"]),
        ({"download.extra_data": "cars, https://host/cars"}, ["download.extra_data", "s3://"]),
        ({"fine_tune.epoch": 1}, ["'fine_tune.epoch'", "fine_tune.epochs"]),
        ({"epochs": 1}, ["'epochs'", "head.epochs, fine_tune.epochs."]),
        ({"xyzzy": 1}, ["'xyzzy'", "data, download, validation"]),
        ({"competition": "cars"}, ["'competition'", "data.source"]),
        ({"fine_tune": {"epochs": 1}}, ["'fine_tune'"]),
        ({"fine_tune.epochs": -1}, ["fine_tune.epochs = -1", "greater than or equal to 0"]),
        ({"model.backbone": 7}, ["model.backbone = 7", "'Tiny', 'Xception'"]),
        ({"data.source": "http://x"}, ["data.source = 'http://x'"]),
        ({"data.id_form": "nope"}, ["data.id_form = 'nope'"]),
        ({"data.id_form": "a\n{id}"}, ["data.id_form"]),
        ({"data.source": "https://www.kaggle.com/competitions/cars/data"}, ["write cars."]),
        ({"data.source": "https://www.kaggle.com/datasets/a/cars"}, ["write kaggle://a/cars."]),
        ({"data.source": "Dogs vs Cats"}, ["write './Dogs vs Cats'."]),
        ({"data.source": "s3://b/x/cars.zip"}, ["data.source = 's3://b/x/cars.zip'", "contains it, s3://b/x."]),
        ({"gate.threshold": 1.2}, ["gate.threshold = 1.2"]),
        ({"GATE.THRESHOLD": 0.9}, ["Unknown setting 'GATE.THRESHOLD'", "gate.threshold"]),
        ({"recpie": "cpu"}, ["Unknown setting 'recpie'", "--recipe"]),
        ({"model.weights": "imagenet"}, ["Tiny", "set model.weights to none"]),
        ({"fine_tune.size_fraction": 0.5}, ["Tiny", "set fine_tune.size_fraction to 1"]),
        ({"fine_tune.mixup": 0.6, "fine_tune.cutmix": 0.5}, ["fine_tune.mixup = 0.6", "fine_tune.cutmix = 0.5"]),
        ({"fine_tune.label_smoothing": 1}, ["fine_tune.label_smoothing = 1", "less than 1"]),
        ({"augment.crop_scale": 0}, ["augment.crop_scale = 0", "greater than or equal to 0.05"]),
        ({"split.num_folds": 1}, ["split.fold", "split.num_folds = 1"]),
        ({"audit.drift_warn": 0.6}, ["audit.drift_warn = 0.6", "audit.drift_stop = 0.5"]),
        ({"evaluate.zooms": "1,0.2"}, ["evaluate.zooms", "0.5"]),
        (XCEPTION, ["Xception", "71 px", "model.image_height"]),
        (XCEPTION | {"model.image_height": 96, "model.image_width": 96, "fine_tune.num_phases": 2,
                     "fine_tune.size_fraction": 0.8}, ["Xception", "71 px"]),
        ({"fine_tune.epochs": 2, "fine_tune.num_phases": 3}, ["fine_tune.num_phases = 3", "not 2"]),
        ({"fine_tune.xla": True}, ["model.deterministic = false"]),
        ({"fine_tune.drop_path": 0.1}, ["Tiny", "fine_tune.drop_path to 0"]),
        ({"split.num_folds": 3, "model.weights": "champion"}, ["split.num_folds", "model.weights"]),
    ],
)
def test_an_invalid_setting_raises_config_error_with_its_name(overrides: dict[str, object], names: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        load_config("demo", overrides)
    assert str(error.value).count("s3://bucket/prefix") <= 1
    assert [name for name in names if name not in str(error.value)] == []


def test_an_unknown_recipe_raises_config_error_with_the_recipes() -> None:
    with pytest.raises(ConfigError, match="gpu-accurate, baseline-xception"):
        load_config("xception")


@pytest.mark.parametrize(
    ("backbone", "size"),
    [("EfficientNetV2S", (384, 512)), ("Xception", (288, 384)), ("EfficientNetB5", (480, 640)),
     ("EfficientNetB7", (576, 768)), ("ConvNeXtBase", (192, 256)), ("MobileNetV3Small", (192, 256))],
)
def test_automatic_image_size_is_close_to_the_pretrained_height(backbone: str, size: tuple[int, int]) -> None:
    assert load_config("gpu", {"model.backbone": backbone}).model.image_size == size
    overrides = {"model.backbone": backbone, "model.image_height": "auto", "model.image_width": 320}
    assert load_config("gpu", overrides).model.image_size == (size[0], 320)


@pytest.mark.parametrize("backbone", get_args(Backbone))
def test_automatic_image_size_of_every_backbone_is_4_to_3(backbone: str) -> None:
    height, width = load_config("gpu", {"model.backbone": backbone, "model.weights": "none"}).model.image_size
    assert 3 * width == 4 * height and height % 32 == width % 32 == 0 and 192 <= height <= 576


def test_every_backbone_belongs_to_one_family() -> None:
    assert sorted(FAMILY_BY_BACKBONE) == sorted(get_args(Backbone))


def test_the_documentation_has_the_table_of_the_families() -> None:
    lines = (Path(__file__).parents[1] / "docs/training.md").read_text().splitlines()
    for name, family in FAMILIES.items():
        rate = f"{family.learning_rate:g} for {family.batch_size}"
        values = f"| {family.layer_decay:g} | {family.weight_decay:g} | {family.drop_path:g} |"
        assert [line for line in lines if line.startswith(f"| {name} | {rate} {values} {min(family.sizes.values())}")]


def fine_tune_settings(recipe: str, **overrides: object) -> dict[str, object]:
    config = load_config(recipe, {name.replace("__", "."): value for name, value in overrides.items()})
    names = ("learning_rate", "layer_decay", "weight_decay", "drop_path")
    return {name: getattr(config.fine_tune, name) for name in names}


def test_automatic_settings_of_fine_tuning_are_the_familys() -> None:
    default = {"learning_rate": 1e-3, "layer_decay": 0.95, "weight_decay": 0.05, "drop_path": 0.2}
    assert fine_tune_settings("gpu") == default
    assert fine_tune_settings("cpu") == default | {"learning_rate": 1.5e-3, "layer_decay": 1.0}
    explicit = {"learning_rate": 1e-4, "layer_decay": 1.0, "weight_decay": 0.0, "drop_path": 0.0}
    assert fine_tune_settings("baseline-xception") == explicit
    automatic = {f"fine_tune__{name}": "auto" for name in explicit}
    unmeasured = {"learning_rate": 3e-4, "layer_decay": 0.95, "weight_decay": 0.05, "drop_path": 0.0}
    assert fine_tune_settings("baseline-xception", **automatic) == unmeasured


@pytest.mark.parametrize(("batch_size", "rate"), [(512, 5e-5), (128, 2.5e-5), (32, 1.25e-5), ("auto", 0)])
def test_the_learning_rate_grows_with_the_square_root_of_the_batch_size(batch_size: object, rate: float) -> None:
    overrides = {"model__backbone": "ConvNeXtBase", "fine_tune__batch_size": batch_size}
    assert fine_tune_settings("gpu", **overrides)["learning_rate"] == rate


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recorded_configuration_is_read_as_it_was(recipe: str) -> None:
    config = load_config(recipe)
    assert Config.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a.b=3", ("a.b", 3)), ("a=x=y", ("a", "x=y")), ("a=true", ("a", True)), ("a=", ("a", "")),
     ("evaluate.zooms=1", ("evaluate.zooms", "1")), ('evaluate.zooms="1,1.5"', ("evaluate.zooms", "1,1.5")),
     ("download.extra_data=2024", ("download.extra_data", "2024")), ("evaluate.zooms=null", ("evaluate.zooms", None))],
)
def test_the_value_of_an_override_is_json_or_text(text: str, expected: tuple[str, object]) -> None:
    assert parse_override(text) == expected


def test_an_override_without_a_value_raises_config_error() -> None:
    with pytest.raises(ConfigError, match="key=value"):
        parse_override("epochs")


def test_a_slug_that_is_also_a_folder_raises_config_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert require_source("photos").kind == "competition"
    (tmp_path / "photos").mkdir()
    assert require_source("./photos").kind == "folder"
    with pytest.raises(ConfigError, match=r"data\.source: .*\./photos"):
        require_source("photos")
