"""Schedules of fine-tuning: the same steps as an implementation in NumPy."""

import keras
import numpy as np
import pytest
from scipy.special import softmax

from carclf.config import Augment, FineTune, load_config
from carclf.pipeline.augmentation import Augmenter
from carclf.pipeline.batches import Examples, TrainingSource
from carclf.pipeline.decode_cache import ImageFiles
from carclf.training.backbones import (
    backbone_layers,
    build_backbone,
    flatten_layers,
    group_layers_by_block,
    with_drop_path,
)
from carclf.training.heads import build_head, join_backbone_and_head
from carclf.training.optimizers import BlockRate
from carclf.training.schedules import (
    block_rates,
    compile_for_fine_tuning,
    ema_momentum,
    epoch_sizes,
    phases_by_epoch,
    unfreeze,
    warmup_cosine,
)
from carclf.training.validation import ema_weights
from carclf.training.weights import StartingWeights

SETTINGS = FineTune(
    epochs=4, batch_size=2, learning_rate=0.1, layer_decay=0.5, weight_decay=0.3, warmup_fraction=0.25, num_phases=2,
    label_smoothing=0.3, ema_fraction=0.3125, global_clipnorm=0.4, drop_path=0.0,  # an average over 2.5 steps
)
NUM_STEPS = 8  # two in each epoch
RISING_AND_FALLING = [0.0, 0.05, *(0.05 * (1 + np.cos(np.pi * np.arange(6) / 6)))]
FACTORS = [0.25] * 2 + [0.5] * 2 + [1.0] * 2  # of the kernel and bias of the lower block, the upper one and the head
STARTS = [4] * 2 + [0] * 4
RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(NUM_STEPS, 2, 4)).astype(np.float32)
TARGETS = np.eye(3, dtype=np.float32)[RANDOM.integers(0, 3, (NUM_STEPS, 2))]


@pytest.fixture
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential([
        keras.Input((4,)), keras.layers.Dense(4, name="block1_dense"), keras.layers.Dense(4, name="block2_dense"),
        keras.layers.Dense(3, name="head"),
    ])


def source(settings: FineTune) -> TrainingSource:
    examples = Examples([""] * 4, np.zeros(4, np.int32), ImageFiles([None] * 4, 4, 4))
    sizes = [(4, 4)] * settings.epochs
    return TrainingSource(examples, Augmenter(Augment()), sizes, settings.batch_size, settings.epochs, 0)


def gradients(weights, inputs, targets):
    """Return the gradients of the smoothed cross-entropy by each kernel and bias of linear layers."""
    layers = [inputs]
    for kernel, bias in zip(weights[::2], weights[1::2], strict=True):
        layers.append(layers[-1] @ kernel + bias)
    error, result = (softmax(layers[-1], 1) - (0.7 * targets + 0.1)) / len(targets), []
    for kernel, below in zip(weights[-2::-2], layers[-2::-1], strict=True):
        result = [below.T @ error, error.sum(0), *result]
        error = error @ kernel.T
    return result


def train(weights, rates):
    """Return the weights and their moving average after a step at each of the rates."""
    weights = [array.astype(float) for array in weights]
    momenta = [0.0] * 6
    velocities = [0.0] * 6
    average = weights
    for step, rate in enumerate(rates):
        raw = gradients(weights, INPUTS[step], TARGETS[step])
        norm = np.sqrt(sum((gradient**2).sum() for gradient in raw))
        for number, gradient in enumerate(raw):
            block_rate = rate * FACTORS[number] * (step >= STARTS[number])
            clipped = gradient * min(1, 0.4 / norm)
            momenta[number] = 0.9 * momenta[number] + 0.1 * clipped
            velocities[number] = 0.999 * velocities[number] + 0.001 * clipped**2
            mean = momenta[number] / (1 - 0.9 ** (step + 1))
            deviation = (np.sqrt(velocities[number]) + 1e-7) / np.sqrt(1 - 0.999 ** (step + 1))
            kept = 1 - 0.3 * block_rate if gradient.ndim > 1 else 1
            weights[number] = kept * weights[number] - block_rate * mean / deviation
        momentum = 0.6 if step else 0.0
        pairs = zip(average, weights, strict=True)
        average = [momentum * old + (1 - momentum) * new for old, new in pairs]
    return weights, average


@pytest.mark.parametrize(("schedule", "rates"), [("cosine", RISING_AND_FALLING), ("plateau", [0.1] * NUM_STEPS)])
def test_a_fine_tuning_takes_the_steps_of_its_settings(model, schedule, rates):
    settings = SETTINGS.model_copy(update={"schedule": schedule})
    start = model.get_weights()
    trained, _ = compile_for_fine_tuning(settings, model, source(settings))
    trained.fit(INPUTS.reshape(-1, 4), TARGETS.reshape(-1, 3), batch_size=2, shuffle=False, verbose=0)
    expected, average = train(start, rates)
    for actual, array in zip(trained.get_weights(), expected, strict=True):
        np.testing.assert_allclose(actual, array, rtol=1e-3, atol=1e-4)
    with ema_weights(trained):
        for actual, array in zip(trained.get_weights(), average, strict=True):
            np.testing.assert_allclose(actual, array, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("schedule", "learning_rate", "expected"),
    [
        ("cosine", None, RISING_AND_FALLING),
        ("plateau", None, [0.1] * NUM_STEPS),
        ("cosine", 0.02, [0.02] * NUM_STEPS),
    ],
)
def test_a_given_learning_rate_replaces_the_schedule(model, schedule, learning_rate, expected):
    settings = SETTINGS.model_copy(update={"schedule": schedule})
    optimizer = compile_for_fine_tuning(settings, model, source(settings), learning_rate)[0].optimizer
    rates = []
    for step in range(NUM_STEPS):
        optimizer.iterations.assign(step)
        rates.append(float(keras.ops.convert_to_numpy(optimizer.learning_rate)))
    np.testing.assert_allclose(rates, expected, atol=1e-7)


@pytest.mark.parametrize(
    ("num_steps", "warmup_fraction", "expected"),
    [
        (100, 0.2, {0: 0, 10: 0.2, 20: 0.4, 40: 0.2 * (1 + 2**-0.5), 60: 0.2, 100: 0}),
        (10, 0.0, {0: 0.4, 5: 0.2, 10: 0}),
        (10, 1.0, {0: 0, 5: 0.2, 10: 0.4}),
    ],
)
def test_the_rate_rises_linearly_and_falls_by_half_a_cosine(num_steps, warmup_fraction, expected):
    schedule = warmup_cosine(0.4, num_steps, warmup_fraction)
    rates = [float(keras.ops.convert_to_numpy(schedule(step))) for step in expected]
    np.testing.assert_allclose(rates, list(expected.values()), atol=1e-6)


def test_lower_blocks_have_lower_rates_and_start_no_sooner():
    assert block_rates(4, decay=0.5, phase_starts=[0, 10]) == [
        BlockRate(0.0625, 10), BlockRate(0.125, 10), BlockRate(0.25, 0), BlockRate(0.5, 0)
    ]
    assert block_rates(3, decay=1.0, phase_starts=[0]) == [BlockRate(1.0, 0)] * 3
    assert block_rates(0, decay=0.5, phase_starts=[0]) == []


def test_the_average_is_over_a_fraction_of_the_steps():
    assert ema_momentum(0.04, 250) == pytest.approx(0.9)
    assert ema_momentum(0.04, 1200) == pytest.approx(1 - 1 / 48)
    assert ema_momentum(0.04, 20) == ema_momentum(0.0, 1000) == 0


def test_phases_have_equal_lengths_up_to_rounding():
    assert phases_by_epoch(6, 3) == [0, 0, 1, 1, 2, 2]
    assert phases_by_epoch(5, 2) == [0, 0, 0, 1, 1]
    assert phases_by_epoch(0, 2) == []


@pytest.mark.parametrize(
    ("initial_fraction", "num_phases", "epochs", "sizes"),
    [
        (1.0, 1, 2, [(224, 320), (224, 320)]),
        (0.5, 1, 2, [(128, 160), (128, 160)]),
        (0.5, 3, 6, [(128, 160), (128, 160), (160, 256), (160, 256), (224, 320), (224, 320)]),
        (0.5, 2, 3, [(128, 160), (128, 160), (224, 320)]),
    ],
)
def test_images_grow_from_phase_to_phase_to_the_full_size_or_keep_theirs(initial_fraction, num_phases, epochs, sizes):
    assert list(epoch_sizes((224, 320), initial_fraction, num_phases, epochs)) == sizes


@pytest.fixture(scope="module")
def classifier() -> keras.Model:
    keras.utils.set_random_seed(0)
    backbone = build_backbone("EfficientNetV2B0", StartingWeights("none"), 64, 64)
    settings = load_config("demo", {"model.batch_norm": True, "model.dropout": 0.0}).model
    return join_backbone_and_head(backbone, build_head(backbone.output_shape[-1], 3, settings))


@pytest.mark.parametrize("mode", ["inference", "affine"])
def test_with_frozen_statistics_training_computes_the_same_features(classifier: keras.Model, mode: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype("float32")
    network = with_drop_path(classifier, 0.0, 0)
    unfreeze(network, 1.0, batch_norm=mode)
    before = [np.array(weight) for weight in network.weights]
    expected = np.array(classifier(images, training=False))
    np.testing.assert_allclose(network(images, training=True), expected, atol=1e-5)
    assert all((old == np.array(new)).all() for old, new in zip(before, network.weights, strict=True))


def test_drop_path_has_the_rates_of_keras(classifier: keras.Model) -> None:
    def rates(model: keras.Model) -> dict[str, float]:
        return {layer.name: layer.rate for layer in flatten_layers(model) if layer.name.endswith("_drop")}

    assert rates(with_drop_path(classifier, 0.2, 0)) == pytest.approx(rates(classifier))
    assert len(rates(classifier)) == 15


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_only_the_upper_blocks_and_the_head_are_trainable(classifier: keras.Model, fraction: float) -> None:
    num_unfrozen = len(unfreeze(classifier, fraction))
    blocks = group_layers_by_block(backbone_layers(classifier))
    trainable = [any(layer.trainable_weights for layer in block) for block in blocks]
    assert len(blocks) > 20 and num_unfrozen == -(-len(blocks) * fraction // 1)
    assert trainable == [position >= len(blocks) - num_unfrozen for position in range(len(blocks))]
    assert classifier.get_layer("head").trainable_weights
