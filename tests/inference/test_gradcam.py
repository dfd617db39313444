"""The heat lies where the picture decides, whatever the net and the backend."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest

from carclf.config import load_config
from carclf.inference.gradcam import Explainer, split_at_feature_maps
from carclf.reports.error_images import error_images, overlay_heatmap
from carclf.training.backbones import build_backbone
from carclf.training.heads import build_head, join_backbone_and_head

SIZE = (64, 64)


def brightness_net(pooled: bool) -> keras.Model:
    """Class 1 for bright places; flattened, for bright places of the upper left quarter alone."""
    inputs = keras.Input((*SIZE, 3))
    x = keras.layers.AveragePooling2D(8)(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.GlobalAveragePooling2D()(x) if pooled else keras.layers.Flatten()(x)
    backbone = keras.Model(inputs, x, name="backbone")
    model = join_backbone_and_head(backbone, build_head(x.shape[-1], 2, load_config("demo", {"model.dropout": 0.0}).model))
    weights = np.zeros((x.shape[-1], 2), np.float32)
    place = np.zeros((8, 8, 3), np.float32)
    place[:4, :4] = 1
    weights[:, 1] = 1 if pooled else place.ravel()
    model.get_layer("head").layers[-1].set_weights([weights, np.zeros(2, np.float32)])
    return model


def explainer(model: keras.Model, folder: Path = Path()) -> Explainer:
    return Explainer(model, folder, SIZE, [4, 7])


def test_the_heat_of_a_pooled_net_is_where_its_class_was_seen() -> None:
    pixels = np.zeros((2, *SIZE, 3), np.uint8)
    pixels[0, 40:56, 8:24], pixels[1, :8, 56:] = 255, 255
    heat = explainer(brightness_net(pooled=True)).heat(pixels, np.array([1, 1]))
    wanted = np.zeros((2, 8, 8))
    wanted[0, 5:7, 1:3], wanted[1, 0, 7] = 1, 1
    np.testing.assert_allclose(heat, wanted, atol=1e-5)


def test_the_heat_of_flattened_features_is_only_where_the_head_looks() -> None:
    pixels = np.full((1, *SIZE, 3), 255, np.uint8)
    heat = explainer(brightness_net(pooled=False)).heat(pixels, np.array([1]))
    wanted = np.zeros((1, 8, 8))
    wanted[0, :4, :4] = 1
    np.testing.assert_allclose(heat, wanted, atol=1e-5)


def test_nothing_that_speaks_for_a_class_is_no_heat_and_no_error() -> None:
    pixels = np.full((1, *SIZE, 3), 255, np.uint8)
    assert not explainer(brightness_net(pooled=True)).heat(pixels, np.array([0])).any()


def added_net(height: int, width: int) -> keras.Model:
    """Like ConvNeXt: its last maps are a sum by an operator, which is no layer, and are normalized once pooled."""
    inner = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 8, 8)(inner)
    x = keras.layers.GlobalAveragePooling2D()(x + keras.layers.Activation("gelu")(x))
    net = keras.Model(inner, keras.layers.LayerNormalization()(x))
    inputs = keras.Input((height, width, 3))
    return keras.Model(inputs, net(keras.layers.Rescaling(1 / 255)(inputs)), name="backbone")


@pytest.mark.parametrize("name", ["Tiny", "MobileNetV3Small", "added"])
def test_a_net_cut_at_its_last_maps_answers_as_the_whole_one(name: str, tmp_path: Path) -> None:
    size = (80, 96)
    keras.utils.set_random_seed(0)
    backbone = added_net(*size) if name == "added" else build_backbone(name, "none", *size)
    join_backbone_and_head(backbone, build_head(backbone.output_shape[-1], 2, load_config("gpu").model)).save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras", compile=False)
    pixels = np.random.default_rng(0).integers(0, 256, (2, *size, 3)).astype(np.uint8)
    before, after = split_at_feature_maps(model)
    found = before(pixels)
    assert len(found.shape) == 4 and found.shape[1] <= size[0] / 8
    for layer in after:
        found = layer(found)
    np.testing.assert_allclose(found, model(pixels), rtol=1e-4, atol=1e-5)
    heat = Explainer(model, tmp_path, size, [0, 1]).heat(pixels, np.array([0, 1]))
    assert heat.shape[0] == 2 and heat.min() >= 0 and heat.max() <= 1


def test_another_backend_finds_the_same_heat(tmp_path: Path) -> None:
    model, pixels = brightness_net(pooled=False), np.random.default_rng(1).integers(0, 256, (3, *SIZE, 3), np.uint8)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "pixels.npy", pixels)
    other = {"tensorflow": "jax", "jax": "tensorflow"}[keras.backend.backend()]
    code = ("import keras, numpy as np, sys; from pathlib import Path; "
            "from carclf.inference.gradcam import Explainer; f = Path(sys.argv[1]); "
            "m = keras.models.load_model(f / 'model.keras', compile=False); "
            "np.save(f / 'heat.npy', Explainer(m, f, (64, 64), [4, 7]).heat(np.load(f / 'pixels.npy'), "
            "np.array([1, 1, 1]))); print(keras.backend.backend())")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=os.environ | {"KERAS_BACKEND": other},
                          capture_output=True, text=True)
    assert done.stdout == f"{other}\n", done.stderr[-2000:]
    own = explainer(model).heat(pixels, np.array([1, 1, 1]))
    np.testing.assert_allclose(np.load(tmp_path / "heat.npy"), own, atol=1e-5)
    assert own[:, :4, :4].min() > 0 and not own[:, 4:].any()


def test_each_error_has_its_own_picture_and_overlay(tmp_path: Path) -> None:
    for number, place in enumerate([(slice(0, 16), slice(0, 16)), (slice(40, 60), slice(40, 60))]):
        pixels = np.zeros((*SIZE, 3), np.uint8)
        pixels[place] = 255
        cv2.imwrite(str(tmp_path / f"{number}.png"), pixels)
    errors = [{"path": f"{number}.png", "predicted": 7} for number in (1, 0, 1)]
    looked = explainer(brightness_net(pooled=True), tmp_path)(["1.png", "0.png"], [7, 7])
    assert [np.unravel_index(heat.argmax(), heat.shape) for _, heat in looked] == [(5, 5), (0, 0)]
    found = error_images(errors, tmp_path, explainer(brightness_net(pooled=True), tmp_path))
    assert found[0] == found[2] != found[1]
    assert all(value.startswith("data:image/jpeg;base64,") for pair in found for value in pair.values())
    plain = error_images([{"path": "gone.png", "predicted": 7}, errors[0]], tmp_path, None)
    assert plain == [{"image": "", "overlay": ""}, {"image": found[0]["image"], "overlay": ""}]


def test_an_overlay_is_coloured_where_it_is_hot_and_grey_elsewhere() -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 1
    found = overlay_heatmap(np.full((40, 40, 3), (200, 60, 60), np.uint8), heat)
    assert len(set(found[-1, -1].tolist())) == 1
    red, _, blue = found[0, 0].astype(int)
    assert red > blue + 40 and found.shape == (40, 40, 3)
