from pathlib import Path

import cv2
import keras
import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from carclf.config import Evaluate
from carclf.ensembles.members import Member
from carclf.ensembles.network import build_ensemble, member_probabilities, weighted_mean
from carclf.inference.tta import predict
from carclf.pipeline.batches import Examples, LetterboxedSource

NUM = 9
SIZE = (32, 48)
MEMBERS = [Member(f"m{n}", "e", "s", f"r{n}", group, temperature, weight)
           for n, (group, temperature, weight) in enumerate([(0, 0.5, 0.2), (0, 1.5, 0.2), (1, 1.0, 0.6)])]


def build_network(seed: int, height: int = SIZE[0], width: int = SIZE[1]) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((height, width, 3)), keras.layers.Rescaling(1 / 64), keras.layers.Flatten(),
                             keras.layers.Dense(4, name="logits")])


def predict_probabilities(network: keras.Model, images: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    return softmax(np.asarray(network.predict_on_batch(images), float) / temperature, 1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> LetterboxedSource:
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(NUM):
        cv2.imwrite(str(folder / f"{number}.png"), random.integers(0, 256, (*SIZE, 3), np.uint8))
    rows = pd.DataFrame({"path": [f"{n}.png" for n in range(NUM)], "problem": ""})
    return LetterboxedSource(Examples.from_index(rows, folder, SIZE), SIZE)


def test_a_saved_ensemble_predicts_the_weighted_mean_of_calibrated_members(
    tmp_path: Path, source: LetterboxedSource
) -> None:
    networks = [build_network(seed) for seed in range(3)]
    build_ensemble(networks, MEMBERS, [SIZE] * 3).save(tmp_path / "model.keras")
    ensemble = keras.models.load_model(tmp_path / "model.keras", compile=False)
    images = np.stack([source[position][0] for position in range(NUM)])
    expected = sum(member.weight * predict_probabilities(network, images, member.temperature)
                   for network, member in zip(networks, MEMBERS, strict=True))
    np.testing.assert_allclose(predict_probabilities(ensemble, images), expected, atol=1e-6)
    assert ensemble.trainable_weights == []
    assert ensemble.input_shape == (None, *SIZE, 3)


def test_a_smaller_member_gets_resized_images(tmp_path: Path, source: LetterboxedSource) -> None:
    large, small = build_network(0), build_network(1, 16, 24)
    build_ensemble([large, small], MEMBERS[1:], [SIZE, (16, 24)]).save(tmp_path / "model.keras")
    ensemble = keras.models.load_model(tmp_path / "model.keras", compile=False)
    images = np.stack([source[position][0] for position in range(NUM)]).astype(np.float32)
    halved = np.stack([cv2.resize(image, (24, 16), interpolation=cv2.INTER_AREA) for image in images])
    of_large, of_small = predict_probabilities(large, images, 1.5), predict_probabilities(small, halved)
    predicted = predict_probabilities(ensemble, images)
    # OpenCV resizes differently than Keras, so the expected value is approximate.
    expected = (0.2 * of_large + 0.6 * of_small) / 0.8
    assert np.abs(predicted - expected).mean() < np.abs(predicted - of_large).mean() / 3


@pytest.mark.parametrize("settings", [{"flip_tta": False}, {"flip_tta": True, "zooms": "1,1.2"}])
def test_members_mean_equals_the_ensembles_prediction(source: LetterboxedSource, settings: dict) -> None:
    ensemble = build_ensemble([build_network(seed) for seed in range(3)], MEMBERS, [SIZE] * 3)
    evaluate = Evaluate(batch_size=4, **settings)
    probabilities = member_probabilities(ensemble, 3, source, evaluate)
    mean = weighted_mean(probabilities, np.ones((3, NUM), bool), MEMBERS)
    np.testing.assert_allclose(mean, predict(ensemble, source, evaluate), atol=1e-6)
    assert len({tuple(row.round(6)) for row in mean}) == NUM
