"""Each net gets the pixels that its ImageNet weights were trained with."""

import sys
from itertools import product
from typing import get_args

import keras
import numpy as np
import pytest

from carclf.config import Backbone
from carclf.training.backbones import build_backbone

PIXELS = np.linspace(0, 255, 4 * 5 * 3, dtype=np.float32).reshape(1, 4, 5, 3)
NAMES = [name for name in get_args(Backbone) if name != "Tiny"]
CORRECTED = [f"EfficientNetB{number}" for number in range(8)]  # where their weights come from a file
MEAN = (0.485, 0.456, 0.406)  # of ImageNet, for which Keras has no name


def family(name):
    """The module of keras.applications in which the net and its ``preprocess_input`` are."""
    return sys.modules[getattr(keras.applications, name).__module__]


@pytest.fixture
def received(tmp_path, monkeypatch):
    """What the net is given for PIXELS; the weights "file" stand for one."""

    def receive(name, weights):
        def untouched(*, include_top, weights, input_shape, pooling):
            inputs = keras.Input(input_shape)
            return keras.Model(inputs, keras.layers.Identity()(inputs))

        monkeypatch.setattr(keras.applications, name, untouched)
        file = tmp_path / "net.weights.h5"
        file.touch()
        backbone = build_backbone(name, str(file) if weights == "file" else weights, 4, 5)
        return keras.ops.convert_to_numpy(backbone(PIXELS))

    return receive


@pytest.mark.parametrize(
    ("name", "weights"),
    [*product(NAMES, ["imagenet", "none"]), *((name, "file") for name in NAMES if name not in CORRECTED)],
)
def test_a_net_gets_what_its_own_preprocess_input_makes_of_the_pixels(received, name, weights):
    expected = family(name).preprocess_input(PIXELS.copy())
    np.testing.assert_allclose(received(name, weights), expected, atol=1e-6)


@pytest.mark.parametrize("name", CORRECTED)
def test_with_weights_from_a_file_an_efficient_net_divides_by_the_whole_deviation(received, name):
    deviation = np.array(family(name).IMAGENET_STDDEV_RGB)
    normalised = (received(name, "file") / 255 - MEAN) / np.sqrt(deviation)  # the file says it is the variance
    np.testing.assert_allclose(normalised, (PIXELS / 255 - MEAN) / deviation, atol=1e-5)


def test_an_efficient_net_answers_alike_with_the_same_weights_by_name_and_from_a_file(tmp_path, monkeypatch):
    module, file = family("EfficientNetB0"), str(tmp_path / "net.weights.h5")
    monkeypatch.setattr(module, "DEFAULT_BLOCKS_ARGS", module.DEFAULT_BLOCKS_ARGS[:1])  # Keras' own net, but short
    monkeypatch.setattr(module.file_utils, "get_file", lambda *_, **__: file)
    keras.utils.set_random_seed(0)
    net = keras.applications.EfficientNetB0(include_top=False, weights=None)
    normalization = next(layer for layer in net.layers if isinstance(layer, keras.layers.Normalization))
    normalization.set_weights([np.array(MEAN), np.array(module.IMAGENET_STDDEV_RGB), np.array(0)])
    net.save_weights(file)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.float32)
    by_name, from_file = (keras.ops.convert_to_numpy(build_backbone("EfficientNetB0", weights, 32, 32)(pixels))
                          for weights in ("imagenet", file))
    assert np.ptp(by_name, axis=0).max() > 1e-3
    np.testing.assert_allclose(from_file, by_name, rtol=1e-4, atol=1e-6)
