"""Test-time augmentation keeps the order of the rows and averages probabilities, not classes."""

import itertools
import statistics
from types import SimpleNamespace

import cv2
import keras
import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from carclf.config import Evaluate, load_config
from carclf.errors import ConfigError
from carclf.inference.tta import milliseconds_per_image, predict, tta_views
from carclf.pipeline.batches import Examples, LetterboxedSource

NUM = 11


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> LetterboxedSource:
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(NUM):
        cv2.imwrite(str(folder / f"{number}.png"), random.integers(0, 256, (32, 48, 3), np.uint8))
    rows = pd.DataFrame({"path": [f"{n}.png" for n in range(NUM)], "problem": ""})
    return LetterboxedSource(Examples.from_index(rows, folder, (32, 48)), (32, 48))


@pytest.fixture(scope="module")
def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((32, 48, 3)), keras.layers.Rescaling(1 / 64), keras.layers.Flatten(),
                             keras.layers.Dense(4)])


@pytest.mark.parametrize("settings", [{"flip_tta": False}, {"zooms": "1,1.2,0.8", "crops": "corners"}])
@pytest.mark.parametrize("batch_size", [4, 32])
def test_each_row_has_the_mean_probability_of_its_views(source, network, settings, batch_size) -> None:
    expected = []
    for position in range(NUM):
        views = tta_views(source[position][0][None], Evaluate(**settings))
        expected.append(np.mean([softmax(np.asarray(network(view), float), 1)[0] for view in views], axis=0))
    probabilities = predict(network, source, Evaluate(batch_size=batch_size, **settings))
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    assert len({tuple(row.round(6)) for row in probabilities}) == NUM


@pytest.mark.parametrize("seconds", [[0.1, 0.11], [0.1, 0.13, 0.11, 0.115, 0.113], [0.1, 1.0] * 4])
def test_batches_are_timed_until_their_mean_is_precise(source, network, monkeypatch, seconds) -> None:
    """The clock is read before and after each batch; the warm-up batch is not timed."""
    readings = list(itertools.accumulate([0.0, *seconds]))
    readings = [time for pair in itertools.pairwise(readings) for time in pair]
    monkeypatch.setattr("carclf.inference.tta.time", SimpleNamespace(perf_counter=lambda: readings.pop(0)))
    milliseconds = milliseconds_per_image(network, source, Evaluate())
    assert milliseconds == pytest.approx(1000 * statistics.median(seconds) / NUM)
    assert not readings


def test_views_are_the_zooms_and_their_horizontal_flips(source) -> None:
    pixels = source[0][0][None]
    plain, zoomed, flipped, zoomed_flipped = tta_views(pixels, Evaluate(zooms="1,2"))
    assert plain is pixels
    np.testing.assert_array_equal(flipped, pixels[:, :, ::-1])
    np.testing.assert_array_equal(zoomed_flipped, zoomed[:, :, ::-1])
    np.testing.assert_array_equal(zoomed[0, 16, 24], pixels[0, 16, 24])  # the center stays
    assert zoomed.shape == pixels.shape


def test_corner_crops_show_each_corner_of_enlarged_images(source) -> None:
    pixels = source[0][0][None]
    _, center, *corners, _ = tta_views(pixels, Evaluate(zooms="1,2,0.8", crops="corners", flip_tta=False))
    assert len(corners) == 4 and corners[0].shape == center.shape == pixels.shape
    for corner, (row, column) in zip(corners, [(0, 0), (0, 24), (16, 0), (16, 24)], strict=True):
        # at twice the size, every second pixel is a pixel of the quarter
        np.testing.assert_array_equal(corner[0, ::2, ::2], pixels[0, row : row + 16, column : column + 24])


@pytest.mark.parametrize("zooms", ["", "1,", "0.2", "big", "1;2"])
def test_invalid_zooms_raise_config_error(zooms: str) -> None:
    with pytest.raises(ConfigError, match="zooms"):
        load_config("demo", {"evaluate.zooms": zooms})
