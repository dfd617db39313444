"""Compilation of a classifier."""

import keras
import numpy as np
import pytest
from scipy.special import log_softmax

from carclf.training.compile import compile_classifier, make_deterministic


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_spreads_the_smoothed_probability_over_all_classes(smoothing):
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    targets = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1]]
    inputs = keras.Input((3,))
    trained = compile_classifier(keras.Model(inputs, keras.layers.Identity()(inputs)), "sgd", smoothing)
    smoothed = (1 - smoothing) * targets + smoothing / 3
    expected = {"loss": -(smoothed * log_softmax(logits, 1)).sum(1).mean(),
                "cross_entropy": -(targets * log_softmax(logits, 1)).sum(1).mean(),
                "accuracy": (logits.argmax(1) == targets.argmax(1)).mean()}
    assert trained.evaluate(logits, targets, verbose=0, return_dict=True) == pytest.approx(expected, rel=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a switch of TensorFlow")
@pytest.mark.parametrize(("kernels", "calls"), [(True, [1]), (False, [])])
def test_deterministic_kernels_are_a_choice_and_the_seed_is_not(monkeypatch, kernels, calls):
    """The process stays in deterministic mode once an earlier test has enabled it."""
    import tensorflow as tf

    enabled = []
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: enabled.append(1))
    draws = []
    for _ in range(2):
        make_deterministic(3, kernels=kernels)
        draws.append(np.asarray(keras.random.normal((2,))))
    np.testing.assert_array_equal(draws[0], draws[1])
    assert enabled == 2 * calls
