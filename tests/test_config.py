from typing import get_args

import pytest

from carclf.config import RECIPES, Backbone, iter_settings, load_config, parse_override
from carclf.errors import ConfigError


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_loads(recipe: str) -> None:
    config = load_config(recipe)
    assert config.gate.threshold == (0.6 if recipe == "demo" else 0.7 if recipe.startswith("cars10") else 0.93)


def test_every_field_has_a_description() -> None:
    assert [name for name, field in iter_settings() if not field.description] == []


def test_an_override_changes_one_field_and_none_means_as_the_recipe_says() -> None:
    plain = load_config("demo")
    changed = load_config("demo", {"fine_tune.epochs": 3, "head.epochs": None})
    assert changed == plain.model_copy(update={"fine_tune": plain.fine_tune.model_copy(update={"epochs": 3})})


NO_TINY = {"model.backbone": "Xception"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"fine_tune.global_clipnorm": float("inf")}, "fine_tune.global_clipnorm"),
        *(({"model.weights": url}, "a URL must name a file") for url in ("s3://", "s3://bucket", "s3://bucket/")),
        ({"fine_tune.epoch": 1}, "'fine_tune.epoch'. Remove it or use one of: fine_tune.epochs,"),
        ({"epochs": 1}, "Unknown configuration key 'epochs'. Remove it or use one of: head.epochs, fine_tune.epochs."),
        ({"xyzzy": 1}, "Unknown configuration key 'xyzzy'. Remove it or use one of: competition, seed, force"),
        ({"fine_tune": {"epochs": 1}}, "Unknown configuration key 'fine_tune'"),
        ({"fine_tune.epochs": -1}, "fine_tune.epochs = -1: Input should be greater than or equal to 0"),
        ({"model.backbone": 7}, "model.backbone = 7: Input should be 'Tiny', 'Xception'"),
        ({"competition": "../x"}, "competition = '../x'"),
        ({"gate.threshold": 1.2}, "gate.threshold = 1.2"),
        ({"model.weights": "imagenet"}, "set model.weights to none"),
        ({"fine_tune.initial_size_fraction": 0.5}, "fine_tune.initial_size_fraction to 1"),
        ({"model.backbone": "EfficientNetB0", "fine_tune.initial_size_fraction": 0.5}, "set fine_tune.num_phases to at least 2"),
        ({"fine_tune.mixup": 0.6, "fine_tune.cutmix": 0.5}, "together they must be at most 1"),
        ({"fine_tune.label_smoothing": 1}, "fine_tune.label_smoothing = 1: Input should be less than 1"),
        ({"augment.crop_scale": 0}, "augment.crop_scale = 0: Input should be greater than or equal to 0.05"),
        (NO_TINY, "Xception needs pictures of at least 71 px"),
        (NO_TINY | {"model.image_height": 96, "model.image_width": 96, "fine_tune.num_phases": 2,
                    "fine_tune.initial_size_fraction": 0.8}, "Xception needs pictures of at least 71 px"),
        ({"fine_tune.epochs": 2, "fine_tune.num_phases": 3}, "fine_tune.num_phases = 3 needs as many epochs, not 2"),
        ({"split.num_folds": 3, "model.weights": "champion"}, "the champion was trained on most of each of them"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=None) as error:
        load_config("demo", overrides)
    assert message in str(error.value)


def test_an_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="the recipes are gpu, baseline-xception"):
        load_config("xception")


@pytest.mark.parametrize(
    ("backbone", "size"),
    [("EfficientNetV2S", (384, 512)), ("Xception", (288, 384)), ("EfficientNetB5", (480, 640)),
     ("EfficientNetB7", (576, 768)), ("ConvNeXtBase", (192, 256)), ("MobileNetV3Small", (192, 256))],
)
def test_a_backbone_sees_pictures_of_about_its_published_height(backbone: str, size: tuple[int, int]) -> None:
    assert load_config("gpu", {"model.backbone": backbone}).model.image_size == size
    given = {"model.backbone": backbone, "model.image_height": "auto", "model.image_width": 320}
    assert load_config("gpu", given).model.image_size == (size[0], 320)


@pytest.mark.parametrize("backbone", get_args(Backbone))
def test_every_backbone_has_a_size_of_its_own_in_the_shape_of_photographs(backbone: str) -> None:
    height, width = load_config("gpu", {"model.backbone": backbone, "model.weights": "none"}).model.image_size
    assert 3 * width == 4 * height and height % 32 == width % 32 == 0 and 192 <= height <= 576


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a.b=3", ("a.b", 3)), ("a=x=y", ("a", "x=y")), ("a=true", ("a", True)), ("a=", ("a", "")),
     ("evaluate.zooms=1", ("evaluate.zooms", "1")), ('evaluate.zooms="1,1.5"', ("evaluate.zooms", "1,1.5")),
     ("download.extra_data=2024", ("download.extra_data", "2024")), ("evaluate.zooms=null", ("evaluate.zooms", None))],
)
def test_overrides_are_read_as_json_or_text(text: str, expected: tuple[str, object]) -> None:
    assert parse_override(text) == expected


def test_an_override_without_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="key=value"):
        parse_override("epochs")
