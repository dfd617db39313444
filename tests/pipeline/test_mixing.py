"""MixUp and CutMix."""

import numpy as np
import pytest

from carclf.pipeline.mixing import BatchMixer


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_labels_are_the_fractions_of_the_mixed_images(kind: str) -> None:
    pixels = np.repeat(np.arange(8, dtype=np.uint8)[:, None, None, None] * 30, 32, 1).repeat(32, 2).repeat(3, 3)
    mixed, probabilities = BatchMixer(8, 0, **{kind: 1.0})(3, (pixels, np.arange(8)))
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(mixed.mean((1, 2, 3)), probabilities @ (np.arange(8) * 30), atol=1.01)


def test_without_mixing_the_images_are_unchanged() -> None:
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    same, probabilities = BatchMixer(2, 0)(0, (pixels, np.array([1, 0])))
    assert same is pixels
    assert probabilities.tolist() == [[0, 1], [1, 0]]
