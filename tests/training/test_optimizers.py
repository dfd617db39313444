"""The optimizer's steps against hand-computed ones: block rates, weight decay, clipping and the moving average."""

import keras
import numpy as np
import pytest

from carclf.training.optimizers import BlockRate, BlockwiseAdamW
from carclf.training.validation import ema_weights

# The kernel and bias of two layers, the lower one and the head.
START = [np.array([[1.0, -2.0], [3.0, 4.0]]), np.array([0.5, -1.0]), np.array([[2.0], [-3.0]]), np.array([1.5])]
UPHILL = [np.array([[1.0, -1.0], [2.0, 3.0]]), np.array([-1.0, 2.0]), np.array([[1.0], [-4.0]]), np.array([1.0])]
SIGNS = [np.sign(gradient) for gradient in UPHILL]
FLAT = [np.zeros_like(array) for array in START]
FULL_RATE = BlockRate(1.0, 0)
LOWER_RATE = BlockRate(0.4, 0)


@pytest.fixture
def stepped():
    """Return the model and its weights after each step with these gradients, at a rate of 0.1."""

    def step(gradients, lower=FULL_RATE, *, weight_decay=0.0, global_clipnorm=1e9, ema_momentum=0.0):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2), keras.layers.Dense(1)])
        model.set_weights(START)
        optimizer = BlockwiseAdamW(
            0.1, weight_decay=weight_decay, global_clipnorm=global_clipnorm, ema_momentum=ema_momentum
        )
        model.compile(optimizer)
        optimizer.build_for(model, [(model.layers[:1], lower)])
        history = []
        for arrays in gradients:
            optimizer.apply([keras.ops.convert_to_tensor(array, "float32") for array in arrays])
            history.append(model.get_weights())
        return model, history

    return step


def assert_close(actual, expected):
    for actual_array, expected_array in zip(actual, expected, strict=True):
        np.testing.assert_allclose(actual_array, expected_array, rtol=1e-4)


def test_kernels_decay_at_the_rate_of_their_block_and_biases_do_not(stepped):
    _, history = stepped([FLAT] * 3, LOWER_RATE, weight_decay=0.5)
    kernel, bias, head_kernel, head_bias = START
    for step, weights in enumerate(history, start=1):
        assert_close(weights, [kernel * 0.98**step, bias, head_kernel * 0.95**step, head_bias])


def test_a_block_has_its_fraction_of_the_rate_and_the_head_the_full_rate(stepped):
    _, history = stepped([UPHILL] * 3, LOWER_RATE)
    for step, weights in enumerate(history, start=1):
        moves = zip(START, SIGNS, [0.04, 0.04, 0.1, 0.1], strict=True)
        assert_close(weights, [start - step * rate * sign for start, sign, rate in moves])


def test_a_block_that_starts_later_neither_moves_nor_decays_before(stepped):
    _, history = stepped([UPHILL] * 4, BlockRate(0.4, 2), weight_decay=0.5)
    kernel, bias, *_ = START
    for step, (actual_kernel, actual_bias, *_) in enumerate(history, start=1):
        if step > 2:
            kernel, bias = kernel * 0.98 - 0.04 * SIGNS[0], bias - 0.04 * SIGNS[1]
        assert_close([actual_kernel, actual_bias], [kernel, bias])


def test_only_gradients_above_the_largest_norm_are_clipped(stepped):
    _, history = stepped([[7 * array for array in UPHILL], [array / 100 for array in UPHILL]], global_clipnorm=0.5)
    norm = np.sqrt(sum((array**2).sum() for array in UPHILL))
    first, second = 0.5 / norm, 0.01
    assert_close(history[0], [start - 0.1 * sign for start, sign in zip(START, SIGNS, strict=True)])
    momentum = (0.1 * 0.9 * first + 0.1 * second) / (1 - 0.9**2)
    velocity = (0.001 * 0.999 * first**2 + 0.001 * second**2) / (1 - 0.999**2)
    move = 0.1 * (1 + momentum / np.sqrt(velocity))
    assert_close(history[1], [start - move * sign for start, sign in zip(START, SIGNS, strict=True)])


def test_the_moving_average_is_in_the_model_only_within_ema_weights(stepped):
    model, (first, second, third) = stepped([UPHILL] * 3, ema_momentum=0.75)
    model.optimizer.finalize_variable_values(model.trainable_variables)
    assert_close(model.get_weights(), third)
    with ema_weights(model):
        average = model.get_weights()
    steps = zip(first, second, third, strict=True)
    assert_close(average, [0.75 * (0.75 * a + 0.25 * b) + 0.25 * c for a, b, c in steps])
    assert_close(model.get_weights(), third)


def test_the_scale_halves_every_rate(stepped):
    model, _ = stepped([], LOWER_RATE, weight_decay=0.5)
    model.optimizer.scale.assign(0.5)
    model.optimizer.apply([keras.ops.convert_to_tensor(array, "float32") for array in FLAT])
    kernel, bias, head_kernel, head_bias = START
    assert_close(model.get_weights(), [kernel * 0.99, bias, head_kernel * 0.975, head_bias])
