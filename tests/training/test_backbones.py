"""Every backbone: preprocessing, weights, training, saving and loading."""

import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from typing import get_args

import keras
import numpy as np
import pytest

from carclf.config import Backbone, load_config
from carclf.errors import ConfigError
from carclf.training.backbones import (
    backbone_layers,
    build_backbone,
    flatten_layers,
    group_layers_by_block,
    with_drop_path,
)
from carclf.training.compile import compile_classifier
from carclf.training.heads import build_head, join_backbone_and_head
from carclf.training.optimizers import BlockRate, BlockwiseAdamW
from carclf.training.schedules import unfreeze
from carclf.training.weights import StartingWeights, starting_weights

pytestmark = pytest.mark.integration

HEIGHT, WIDTH = 96, 128
IMAGES = np.random.default_rng(0).integers(0, 256, (4, HEIGHT, WIDTH, 3), np.uint8)
LABELS = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
SMALL = ("Tiny", "MobileNetV3Small")
IN_ACCEPTANCE = ("EfficientNetV2B0", "ConvNeXtTiny")
NAMES = [
    name if name in SMALL
    else pytest.param(name, marks=pytest.mark.acceptance if name in IN_ACCEPTANCE else pytest.mark.trainings)
    for name in get_args(Backbone)
]
PIXELS = np.linspace(0, 255, 4 * 5 * 3, dtype=np.float32).reshape(1, 4, 5, 3)
APPLICATIONS = [name for name in get_args(Backbone) if name != "Tiny"]
EFFICIENT = [f"EfficientNetB{number}" for number in range(8)]  # corrected if their weights come from a file
MEAN = (0.485, 0.456, 0.406)  # of ImageNet, for which Keras has no name


@pytest.mark.parametrize("name", NAMES)
def test_a_backbone_trains_and_predicts_the_same_after_loading(name, tmp_path):
    if name in SMALL:
        examine(name, tmp_path)
        return
    # One process per large backbone: together they would need more memory than a small machine has.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(examine, name, tmp_path).result()


def examine(name, tmp_path):
    keras.utils.set_random_seed(0)
    backbone = build_backbone(name, StartingWeights("none"), HEIGHT, WIDTH)
    model = join_backbone_and_head(backbone, build_head(backbone.output_shape[-1], 3, load_config("demo").model))
    groups = unfreeze(model, 0.2)
    optimizer = BlockwiseAdamW(1e-3, weight_decay=0.05, global_clipnorm=1.0, ema_momentum=0.9)
    trained = compile_classifier(model, optimizer, 0.1)
    optimizer.build_for(trained, [(group, BlockRate(0.5, 0)) for group in groups])
    before = [np.array(weight) for weight in trained.get_weights()]
    trained.fit(IMAGES, LABELS, batch_size=4, epochs=1, verbose=0)
    moved = sum(not np.array_equal(old, new) for old, new in zip(before, trained.get_weights(), strict=True))
    trainable = len(trained.trainable_variables)
    assert 2 <= moved <= trainable < len(before) or name == "Tiny"
    norms = [layer for layer in flatten_layers(model) if isinstance(layer, keras.layers.BatchNormalization)]
    assert not any(layer.trainable for layer in norms)

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(model.predict(IMAGES, verbose=0), loaded.predict(IMAGES, verbose=0))
    num_blocks = len(group_layers_by_block(backbone_layers(model)))
    assert num_blocks == len(group_layers_by_block(backbone_layers(loaded))) >= 5
    if name != "Tiny":  # the same weights accept images of another size
        assert np.isfinite(model.predict(IMAGES[:, :, :96], verbose=0)).all()


def family(name):
    """Return the module of keras.applications that contains the network and its ``preprocess_input``."""
    return sys.modules[getattr(keras.applications, name).__module__]


@pytest.fixture
def received(tmp_path, monkeypatch):
    """Return a function that returns a network's input for PIXELS. The weights "file" are loaded from a file."""

    def receive(name, weights):
        def identity(*, include_top, weights, input_shape, pooling):
            inputs = keras.Input(input_shape)
            return keras.Model(inputs, keras.layers.Identity()(inputs))

        monkeypatch.setattr(keras.applications, name, identity)
        file = tmp_path / "net.weights.h5"
        file.touch()
        backbone = build_backbone(name, starting_weights(str(file) if weights == "file" else weights), 4, 5)
        return keras.ops.convert_to_numpy(backbone(PIXELS))

    return receive


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        *product(APPLICATIONS, ["imagenet", "none"]),
        *((name, "file") for name in APPLICATIONS if name not in EFFICIENT),
    ],
)
def test_preprocessing_equals_the_preprocess_input_of_keras(received, name, weights):
    expected = family(name).preprocess_input(PIXELS.copy())
    np.testing.assert_allclose(received(name, weights), expected, atol=1e-6)


@pytest.mark.parametrize("name", EFFICIENT)
def test_efficientnet_weights_from_a_file_get_pixels_divided_by_the_deviation(received, name):
    """Keras divides by its square root for such a file, and by the whole deviation for weights="imagenet"."""
    deviation = np.array(family(name).IMAGENET_STDDEV_RGB)
    normalized = (received(name, "file") / 255 - MEAN) / np.sqrt(deviation)  # the file has it as variance
    np.testing.assert_allclose(normalized, (PIXELS / 255 - MEAN) / deviation, atol=1e-5)


def test_efficientnet_features_are_the_same_by_name_and_from_a_file(tmp_path, monkeypatch):
    module, file = family("EfficientNetB0"), str(tmp_path / "net.weights.h5")
    monkeypatch.setattr(module, "DEFAULT_BLOCKS_ARGS", module.DEFAULT_BLOCKS_ARGS[:1])  # Keras' network, but short
    monkeypatch.setattr(module.file_utils, "get_file", lambda *_, **__: file)
    keras.utils.set_random_seed(0)
    net = keras.applications.EfficientNetB0(include_top=False, weights=None)
    normalization = next(layer for layer in net.layers if isinstance(layer, keras.layers.Normalization))
    normalization.set_weights([np.array(MEAN), np.array(module.IMAGENET_STDDEV_RGB), np.array(0)])
    net.save_weights(file)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.float32)
    by_name, from_file = (
        keras.ops.convert_to_numpy(build_backbone("EfficientNetB0", starting_weights(weights), 32, 32)(pixels))
        for weights in ("imagenet", file)
    )
    assert np.ptp(by_name, axis=0).max() > 1e-3
    np.testing.assert_allclose(from_file, by_name, rtol=1e-4, atol=1e-6)


@pytest.fixture
def convnext(monkeypatch):
    """Return a small ConvNeXt of five blocks whose residual branches matter."""
    small = {"depths": [1, 1, 2, 1], "projection_dims": [8] * 4, "default_size": 64}
    monkeypatch.setitem(family("ConvNeXtTiny").MODEL_CONFIGS, "tiny", small)
    keras.utils.set_random_seed(0)
    backbone = build_backbone("ConvNeXtTiny", StartingWeights("none"), 64, 64)
    for layer in backbone_layers(backbone):
        if layer.name.endswith("layer_scale"):
            layer.gamma.assign(np.ones(8))
    return backbone


SMALL_IMAGES = IMAGES[:, :64, :64]


def test_drop_path_skips_branches_of_single_images_in_training_only(convnext):
    network = with_drop_path(convnext, 0.8, 0)
    rates = [layer.rate for layer in flatten_layers(network) if isinstance(layer, keras.layers.Dropout)]
    assert rates == pytest.approx([0, 0.16, 0.32, 0.48, 0.64])
    plain = np.array(convnext(SMALL_IMAGES))
    np.testing.assert_array_equal(np.array(network(SMALL_IMAGES, training=False)), plain)
    outputs = np.array(network(np.repeat(SMALL_IMAGES[:1], 8, 0), training=True))
    assert 2 <= len(np.unique(outputs.round(4), axis=0)) <= 8
    assert not np.allclose(outputs, plain[:1])


def test_drop_path_repeats_with_the_seed_and_from_the_state_of_a_checkpoint(convnext):
    first, second, other = (with_drop_path(convnext, 0.8, seed) for seed in (1, 1, 2))
    outputs = [np.array(network(SMALL_IMAGES, training=True)) for network in (first, second, other)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[0], outputs[2])
    for variable, saved in zip(second.variables, other.variables, strict=True):  # as Trainer restores a checkpoint
        variable.assign(saved)
    after = [np.array(network(SMALL_IMAGES, training=True)) for network in (second, other)]
    np.testing.assert_array_equal(*after)
    assert not np.array_equal(after[0], outputs[2])


def test_the_saved_network_has_no_drop_path(convnext, tmp_path):
    trained = with_drop_path(convnext, 0.8, 0)
    trained.weights[0].assign(trained.weights[0] + 1)
    convnext.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras", compile=False)
    assert not [layer for layer in flatten_layers(loaded) if isinstance(layer, keras.layers.Dropout)]
    np.testing.assert_array_equal(loaded(SMALL_IMAGES, training=True), trained(SMALL_IMAGES, training=False))


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [("Tiny", "imagenet", r"model\.weights"), ("EfficientNetB0", "/nowhere/x.weights.h5", "/nowhere/x.weights.h5")],
)
def test_missing_weights_raise_config_error(name, weights, message):
    with pytest.raises(ConfigError, match=message):
        build_backbone(name, starting_weights(weights), 64, 64)


def test_non_finite_weights_raise_config_error(tmp_path):
    net = build_backbone("MobileNetV3Small", StartingWeights("none"), 64, 64).layers[-1]
    net.set_weights([np.full_like(array, np.nan) for array in net.get_weights()])
    net.save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ConfigError, match="not finite"):
        build_backbone("MobileNetV3Small", starting_weights(str(tmp_path / "m.weights.h5")), 64, 64)


def test_weights_of_another_network_raise_config_error(tmp_path):
    net = build_backbone("MobileNetV3Small", StartingWeights("none"), 64, 64).layers[-1]
    net.save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ConfigError, match=r"could not be loaded.* model\.weights"):
        build_backbone("EfficientNetB0", starting_weights(str(tmp_path / "m.weights.h5")), 64, 64)
