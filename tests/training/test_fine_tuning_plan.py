"""Every setting of a fine-tuning reaches its training: the same steps as NumPy makes of them."""

import keras
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from carclf.config import Augment, FineTune
from carclf.pipeline.augmentation import Augmenter
from carclf.pipeline.batches import Examples, TrainingSource
from carclf.pipeline.decode_cache import ImageFiles
from carclf.training.compile import compile_classifier
from carclf.training.schedules import compile_for_fine_tuning
from carclf.training.validation import ema_weights

OWN = FineTune(
    epochs=4, batch_size=2, learning_rate=0.1, layer_decay=0.5, weight_decay=0.3, warmup_fraction=0.25, num_phases=2,
    label_smoothing=0.3, ema_momentum=0.6, global_clipnorm=0.4,
)
NUM_STEPS = 8  # two in each epoch
RISING_AND_FALLING = [0.0, 0.05, *(0.05 * (1 + np.cos(np.pi * np.arange(6) / 6)))]
FACTORS = [0.25] * 2 + [0.5] * 2 + [1.0] * 2  # of the kernel and bias of the lower block, the upper one and the head
STARTS = [4] * 2 + [0] * 4
RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(NUM_STEPS, 2, 4)).astype(np.float32)
SHARES = np.eye(3, dtype=np.float32)[RANDOM.integers(0, 3, (NUM_STEPS, 2))]


@pytest.fixture
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential([
        keras.Input((4,)), keras.layers.Dense(4, name="block1_dense"), keras.layers.Dense(4, name="block2_dense"),
        keras.layers.Dense(3, name="head"),
    ])


def source(own: FineTune) -> TrainingSource:
    examples = Examples([""] * 4, np.zeros(4, np.int32), ImageFiles([None] * 4, 4, 4))
    return TrainingSource(examples, Augmenter(Augment()), [(4, 4)] * own.epochs, own.batch_size, own.epochs, 0)


def gradients(weights, inputs, shares):
    """Of the cross-entropy with the smoothed shares, by each kernel and bias of linear layers."""
    layers = [inputs]
    for kernel, bias in zip(weights[::2], weights[1::2], strict=True):
        layers.append(layers[-1] @ kernel + bias)
    error, found = (softmax(layers[-1], 1) - (0.7 * shares + 0.1)) / len(shares), []
    for kernel, below in zip(weights[-2::-2], layers[-2::-1], strict=True):
        found = [below.T @ error, error.sum(0), *found]
        error = error @ kernel.T
    return found


def train(weights, rates):
    """The weights and their average after a step at each of the rates."""
    weights = [array.astype(float) for array in weights]
    momenta, velocities, average = [0.0] * 6, [0.0] * 6, weights
    for step, rate in enumerate(rates):
        raw = gradients(weights, INPUTS[step], SHARES[step])
        norm = np.sqrt(sum((gradient**2).sum() for gradient in raw))
        for number, gradient in enumerate(raw):
            own = rate * FACTORS[number] * (step >= STARTS[number])
            clipped = gradient * min(1, 0.4 / norm)
            momenta[number] = 0.9 * momenta[number] + 0.1 * clipped
            velocities[number] = 0.999 * velocities[number] + 0.001 * clipped**2
            mean = momenta[number] / (1 - 0.9 ** (step + 1))
            deviation = (np.sqrt(velocities[number]) + 1e-7) / np.sqrt(1 - 0.999 ** (step + 1))
            kept = 1 - 0.3 * own if gradient.ndim > 1 else 1
            weights[number] = kept * weights[number] - own * mean / deviation
        share = 0.6 if step else 0.0
        average = [share * one + (1 - share) * other for one, other in zip(average, weights, strict=True)]
    return weights, average


@pytest.mark.parametrize(("schedule", "rates"), [("cosine", RISING_AND_FALLING), ("plateau", [0.1] * NUM_STEPS)])
def test_a_fine_tuning_makes_the_steps_that_its_settings_ask_for(model, schedule, rates):
    own = OWN.model_copy(update={"schedule": schedule})
    start = model.get_weights()
    trained, _ = compile_for_fine_tuning(own, model, source(own))
    trained.fit(INPUTS.reshape(-1, 4), SHARES.reshape(-1, 3), batch_size=2, shuffle=False, verbose=0)
    expected, average = train(start, rates)
    for found, array in zip(trained.get_weights(), expected, strict=True):
        np.testing.assert_allclose(found, array, rtol=1e-3, atol=1e-4)
    with ema_weights(trained):
        for found, array in zip(trained.get_weights(), average, strict=True):
            np.testing.assert_allclose(found, array, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("schedule", "given", "expected"),
    [
        ("cosine", None, RISING_AND_FALLING),
        ("plateau", None, [0.1] * NUM_STEPS),
        ("cosine", 0.02, [0.02] * NUM_STEPS),
    ],
)
def test_the_rate_of_each_step_is_the_schedules_unless_another_is_given(model, schedule, given, expected):
    own = OWN.model_copy(update={"schedule": schedule})
    optimizer = compile_for_fine_tuning(own, model, source(own), given)[0].optimizer
    found = []
    for step in range(NUM_STEPS):
        optimizer.iterations.assign(step)
        found.append(float(keras.ops.convert_to_numpy(optimizer.learning_rate)))
    np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_spreads_the_share_that_is_smoothed_over_all_classes(smoothing):
    logits = RANDOM.normal(size=(5, 3)).astype(np.float32)
    shares = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1]]
    inputs = keras.Input((3,))
    trained = compile_classifier(keras.Model(inputs, keras.layers.Identity()(inputs)), "sgd", smoothing)
    spread = (1 - smoothing) * shares + smoothing / 3
    expected = {"loss": -(spread * log_softmax(logits, 1)).sum(1).mean(),
                "accuracy": (logits.argmax(1) == shares.argmax(1)).mean()}
    assert trained.evaluate(logits, shares, verbose=0, return_dict=True) == pytest.approx(expected, rel=1e-5)
