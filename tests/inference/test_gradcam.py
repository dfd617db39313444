"""Heatmaps show the positions that decide, with any network and backend."""

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
from carclf.training.backbones import build_backbone
from carclf.training.heads import build_head, join_backbone_and_head
from carclf.training.weights import StartingWeights

SIZE = (64, 64)


def brightness_net(pooled: bool) -> keras.Model:
    """Return a network with class 1 for bright pixels; flattened, for those of the upper left quarter only."""
    inputs = keras.Input((*SIZE, 3))
    x = keras.layers.AveragePooling2D(8)(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.GlobalAveragePooling2D()(x) if pooled else keras.layers.Flatten()(x)
    backbone = keras.Model(inputs, x, name="backbone")
    settings = load_config("demo", {"model.dropout": 0.0}).model
    model = join_backbone_and_head(backbone, build_head(x.shape[-1], 2, settings))
    weights = np.zeros((x.shape[-1], 2), np.float32)
    quarter = np.zeros((8, 8, 3), np.float32)
    quarter[:4, :4] = 1
    weights[:, 1] = 1 if pooled else quarter.ravel()
    model.get_layer("head").layers[-1].set_weights([weights, np.zeros(2, np.float32)])
    return model


def explainer(model: keras.Model, folder: Path = Path()) -> Explainer:
    return Explainer(model, folder, SIZE, ["4", "7"])


def test_the_heatmap_of_a_pooled_network_is_hot_where_its_class_is() -> None:
    pixels = np.zeros((2, *SIZE, 3), np.uint8)
    pixels[0, 40:56, 8:24], pixels[1, :8, 56:] = 255, 255
    heat = explainer(brightness_net(pooled=True)).heat(pixels, np.array([1, 1]))
    expected = np.zeros((2, 8, 8))
    expected[0, 5:7, 1:3], expected[1, 0, 7] = 1, 1
    np.testing.assert_allclose(heat, expected, atol=1e-5)


def test_the_heatmap_of_flattened_features_is_hot_where_the_head_has_weights() -> None:
    pixels = np.full((1, *SIZE, 3), 255, np.uint8)
    heat = explainer(brightness_net(pooled=False)).heat(pixels, np.array([1]))
    expected = np.zeros((1, 8, 8))
    expected[0, :4, :4] = 1
    np.testing.assert_allclose(heat, expected, atol=1e-5)


def test_a_class_without_evidence_has_an_empty_heatmap() -> None:
    pixels = np.full((1, *SIZE, 3), 255, np.uint8)
    assert not explainer(brightness_net(pooled=True)).heat(pixels, np.array([0])).any()


def added_net(height: int, width: int) -> keras.Model:
    """Return a network like ConvNeXt: an operator, not a layer, adds its last maps, which are pooled and normalized."""
    inner = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 8, 8)(inner)
    x = keras.layers.GlobalAveragePooling2D()(x + keras.layers.Activation("gelu")(x))
    net = keras.Model(inner, keras.layers.LayerNormalization()(x))
    inputs = keras.Input((height, width, 3))
    return keras.Model(inputs, net(keras.layers.Rescaling(1 / 255)(inputs)), name="backbone")


@pytest.mark.parametrize("name", ["Tiny", "MobileNetV3Small", "added"])
def test_a_network_split_at_its_last_maps_predicts_the_same(name: str, tmp_path: Path) -> None:
    size = (80, 96)
    keras.utils.set_random_seed(0)
    backbone = added_net(*size) if name == "added" else build_backbone(name, StartingWeights("none"), *size)
    head = build_head(backbone.output_shape[-1], 2, load_config("gpu").model)
    join_backbone_and_head(backbone, head).save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras", compile=False)
    pixels = np.random.default_rng(0).integers(0, 256, (2, *size, 3)).astype(np.uint8)
    lower, upper_layers = split_at_feature_maps(model)
    outputs = lower(pixels)
    assert len(outputs.shape) == 4 and outputs.shape[1] <= size[0] / 8
    for layer in upper_layers:
        outputs = layer(outputs)
    np.testing.assert_allclose(outputs, model(pixels), rtol=1e-4, atol=1e-5)
    heat = Explainer(model, tmp_path, size, ["0", "1"]).heat(pixels, np.array([0, 1]))
    assert heat.shape[0] == 2 and heat.min() >= 0 and heat.max() <= 1


def test_both_backends_compute_the_same_heatmaps(tmp_path: Path) -> None:
    model, pixels = brightness_net(pooled=False), np.random.default_rng(1).integers(0, 256, (3, *SIZE, 3), np.uint8)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "pixels.npy", pixels)
    other = {"tensorflow": "jax", "jax": "tensorflow"}[keras.backend.backend()]
    code = ("import keras, numpy as np, sys; from pathlib import Path; "
            "from carclf.inference.gradcam import Explainer; f = Path(sys.argv[1]); "
            "m = keras.models.load_model(f / 'model.keras', compile=False); "
            "np.save(f / 'heat.npy', Explainer(m, f, (64, 64), ['4', '7']).heat(np.load(f / 'pixels.npy'), "
            "np.array([1, 1, 1]))); print(keras.backend.backend())")
    process = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=os.environ | {"KERAS_BACKEND": other}, capture_output=True,
        text=True, check=False,
    )
    assert process.stdout == f"{other}\n", process.stderr[-2000:]
    heat = explainer(model).heat(pixels, np.array([1, 1, 1]))
    np.testing.assert_allclose(np.load(tmp_path / "heat.npy"), heat, atol=1e-5)
    assert heat[:, :4, :4].min() > 0 and not heat[:, 4:].any()


def test_an_explainer_returns_a_heatmap_per_image(tmp_path: Path) -> None:
    for number, region in enumerate([(slice(0, 16), slice(0, 16)), (slice(40, 60), slice(40, 60))]):
        pixels = np.zeros((*SIZE, 3), np.uint8)
        pixels[region] = 255
        cv2.imwrite(str(tmp_path / f"{number}.png"), pixels)
    explained = explainer(brightness_net(pooled=True), tmp_path)(["1.png", "0.png"], ["7", "7"])
    assert [np.unravel_index(heat.argmax(), heat.shape) for _, heat in explained] == [(5, 5), (0, 0)]
    assert [pixels.sum() > 0 for pixels, _ in explained] == [True, True]
