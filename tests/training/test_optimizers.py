"""The optimizer's steps, by hand: rates of the blocks, decay of the kernels, clipping and the average."""

import keras
import numpy as np
import pytest

from carclf.training.optimizers import BlockRate, BlockwiseAdamW
from carclf.training.validation import ema_weights

# of two layers, lower and head: the kernel and bias of each
START = [np.array([[1.0, -2.0], [3.0, 4.0]]), np.array([0.5, -1.0]), np.array([[2.0], [-3.0]]), np.array([1.5])]
UPHILL = [np.array([[1.0, -1.0], [2.0, 3.0]]), np.array([-1.0, 2.0]), np.array([[1.0], [-4.0]]), np.array([1.0])]
SIGNS = [np.sign(gradient) for gradient in UPHILL]
FLAT = [np.zeros_like(array) for array in START]


@pytest.fixture
def stepped():
    """The model and its weights after each of the steps with these gradients, at a rate of 0.1."""

    def step(gradients, lower=BlockRate(1.0, 0), *, weight_decay=0.0, global_clipnorm=1e9, ema_momentum=0.0):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2), keras.layers.Dense(1)])
        model.set_weights(START)
        optimizer = BlockwiseAdamW(0.1, weight_decay=weight_decay, global_clipnorm=global_clipnorm, ema_momentum=ema_momentum)
        model.compile(optimizer)
        optimizer.build_for(model, [(model.layers[:1], lower)])
        history = []
        for arrays in gradients:
            optimizer.apply([keras.ops.convert_to_tensor(array, "float32") for array in arrays])
            history.append(model.get_weights())
        return model, history

    return step


def assert_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_kernels_decay_at_their_blocks_rate_and_biases_do_not(stepped):
    _, history = stepped([FLAT] * 3, BlockRate(0.4, 0), weight_decay=0.5)
    kernel, bias, head_kernel, head_bias = START
    for step, weights in enumerate(history, start=1):
        assert_close(weights, [kernel * 0.98**step, bias, head_kernel * 0.95**step, head_bias])


def test_a_block_moves_by_its_share_of_the_rate_and_the_head_by_all_of_it(stepped):
    _, history = stepped([UPHILL] * 3, BlockRate(0.4, 0))
    for step, weights in enumerate(history, start=1):
        moves = zip(START, SIGNS, [0.04, 0.04, 0.1, 0.1], strict=True)
        assert_close(weights, [start - step * rate * sign for start, sign, rate in moves])


def test_a_block_that_joins_later_neither_moves_nor_decays_before(stepped):
    _, history = stepped([UPHILL] * 4, BlockRate(0.4, 2), weight_decay=0.5)
    kernel, bias, *_ = START
    for step, (found_kernel, found_bias, *_) in enumerate(history, start=1):
        if step > 2:
            kernel, bias = kernel * 0.98 - 0.04 * SIGNS[0], bias - 0.04 * SIGNS[1]
        assert_close([found_kernel, found_bias], [kernel, bias])


def test_a_gradient_that_is_longer_than_allowed_is_shortened_and_another_is_not(stepped):
    _, history = stepped([[7 * array for array in UPHILL], [array / 100 for array in UPHILL]], global_clipnorm=0.5)
    norm = np.sqrt(sum((array**2).sum() for array in UPHILL))
    first, second = 0.5 / norm, 0.01
    assert_close(history[0], [start - 0.1 * sign for start, sign in zip(START, SIGNS, strict=True)])
    momentum = (0.1 * 0.9 * first + 0.1 * second) / (1 - 0.9**2)
    velocity = (0.001 * 0.999 * first**2 + 0.001 * second**2) / (1 - 0.999**2)
    move = 0.1 * (1 + momentum / np.sqrt(velocity))
    assert_close(history[1], [start - move * sign for start, sign in zip(START, SIGNS, strict=True)])


def test_the_average_of_the_weights_follows_them_and_is_in_the_model_only_where_it_is_asked_for(stepped):
    model, (first, second, third) = stepped([UPHILL] * 3, ema_momentum=0.75)
    model.optimizer.finalize_variable_values(model.trainable_variables)
    assert_close(model.get_weights(), third)
    with ema_weights(model):
        found = model.get_weights()
    parts = zip(first, second, third, strict=True)
    assert_close(found, [0.75 * (0.75 * one + 0.25 * two) + 0.25 * three for one, two, three in parts])
    assert_close(model.get_weights(), third)


def test_the_scale_halves_every_rate(stepped):
    model, _ = stepped([], BlockRate(0.4, 0), weight_decay=0.5)
    model.optimizer.scale.assign(0.5)
    model.optimizer.apply([keras.ops.convert_to_tensor(array, "float32") for array in FLAT])
    kernel, bias, head_kernel, head_bias = START
    assert_close(model.get_weights(), [kernel * 0.99, bias, head_kernel * 0.975, head_bias])
