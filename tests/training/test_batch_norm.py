"""BatchNormalization in fine-tuning: what trains in each mode, and the statistics of averaged weights."""

import keras
import numpy as np
import pytest

from carclf.training.batch_norm import batch_norm_layers, recompute_statistics, set_batch_norm_mode
from carclf.training.compile import compile_classifier
from carclf.training.optimizers import BlockwiseAdamW
from carclf.training.validation import ema_weights

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
LABELS = np.eye(3, dtype=np.float32)[np.arange(12) % 3]


class Images:
    """The images without augmentation."""

    def __len__(self):
        return len(PIXELS)

    def __getitem__(self, position):
        return PIXELS[position], np.int32(position % 3)


@pytest.fixture
def model():
    """Return a classifier with a BatchNormalization layer in a nested backbone and one in its nested head."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, 2, activation="relu")(keras.layers.Rescaling(1 / 255)(inputs))
    backbone = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(keras.layers.BatchNormalization()(x)))
    features = keras.Input((4,))
    x = keras.layers.Dropout(0.5)(keras.layers.BatchNormalization()(features))
    head = keras.Model(features, keras.layers.Dense(3, dtype="float32")(x), name="head")
    return keras.Model(inputs, head(backbone(inputs)))


def train(model, ema_momentum=0.0):
    optimizer = BlockwiseAdamW(0.01, weight_decay=0.0, global_clipnorm=1.0, ema_momentum=ema_momentum)
    trained = compile_classifier(model, optimizer, 0.0)
    optimizer.build_for(trained, [])
    trained.fit(PIXELS, LABELS, batch_size=6, verbose=0, shuffle=False)
    return trained


def snapshot(layers, *names):
    return [np.array(getattr(layer, name)) for layer in layers for name in names]


@pytest.mark.parametrize(
    ("mode", "affine_trains", "statistics_change"),
    [("inference", False, False), ("affine", True, False), ("training", True, True)],
)
def test_a_mode_trains_its_part_of_batch_normalization(model, mode, affine_trains, statistics_change):
    layers = batch_norm_layers(model)
    set_batch_norm_mode(model, mode)
    affine, statistics = snapshot(layers, "gamma", "beta"), snapshot(layers, "moving_mean", "moving_variance")
    train(model)
    changed = [not np.array_equal(*pair) for pair in zip(affine, snapshot(layers, "gamma", "beta"), strict=True)]
    assert changed == [affine_trains] * 4
    now = snapshot(layers, "moving_mean", "moving_variance")
    assert [not np.array_equal(*pair) for pair in zip(statistics, now, strict=True)] == [statistics_change] * 4


def test_a_frozen_layer_stays_frozen_in_affine_mode(model):
    first = batch_norm_layers(model)[0]
    first.trainable = False
    set_batch_norm_mode(model, "affine")
    before = snapshot([first], "gamma", "beta")
    train(model)
    for old, new in zip(before, snapshot([first], "gamma", "beta"), strict=True):
        np.testing.assert_array_equal(old, new)


def test_recomputed_statistics_are_means_over_the_batches(model):
    train(model)
    layers = batch_norm_layers(model)
    convolved = np.array(model.layers[1].layers[2](PIXELS / np.float32(255))).reshape(3, -1, 4)
    recompute_statistics(model, Images(), 4)
    first = snapshot(layers, "moving_mean", "moving_variance")
    np.testing.assert_allclose(first[0], convolved.mean(1).mean(0), rtol=1e-4)
    np.testing.assert_allclose(first[1], convolved.var(1).mean(0), rtol=1e-3)
    assert [layer.momentum for layer in layers] == [0.99, 0.99]
    recompute_statistics(model, Images(), 4)  # from other statistics than before: the result is the same to the bit
    for old, new in zip(first, snapshot(layers, "moving_mean", "moving_variance"), strict=True):
        np.testing.assert_array_equal(old, new)


def test_statistics_of_averaged_weights_are_in_the_model_only_within_the_block(model):
    trained = train(model, ema_momentum=0.9)
    layers = batch_norm_layers(trained)
    before = snapshot(layers, "moving_mean", "moving_variance")
    with ema_weights(trained):
        recompute_statistics(trained, Images(), 4)
        within = snapshot(layers, "moving_mean", "moving_variance")
    after = snapshot(layers, "moving_mean", "moving_variance")
    assert not any(map(np.array_equal, before, within)) and all(map(np.array_equal, before, after))


def test_a_saved_model_has_no_trace_of_the_mode(model, tmp_path):
    set_batch_norm_mode(model, "affine")
    train(model)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras", compile=False)
    np.testing.assert_array_equal(loaded(PIXELS), model(PIXELS))
    assert not np.allclose(loaded(PIXELS, training=True), loaded(PIXELS))
