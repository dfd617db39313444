"""Several networks in one file answer the weighted mean of their calibrated probabilities."""

from dataclasses import replace
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
MEMBERS = [Member(f"m{n}", "e", "s", f"r{n}", group, temperature, weight)
           for n, (group, temperature, weight) in enumerate([(0, 0.5, 0.2), (0, 1.5, 0.2), (1, 1.0, 0.6)])]


def network(seed: int, height: int = 32, width: int = 48) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((height, width, 3)), keras.layers.Rescaling(1 / 64), keras.layers.Flatten(),
                             keras.layers.Dense(4, name="logits")])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> LetterboxedSource:
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(NUM):
        cv2.imwrite(str(folder / f"{number}.png"), random.integers(0, 256, (32, 48, 3), np.uint8))
    rows = pd.DataFrame({"path": [f"{n}.png" for n in range(NUM)], "label": range(NUM), "problem": ""})
    return LetterboxedSource(Examples.from_index(rows, folder, (32, 48)), (32, 48))


def test_the_saved_file_answers_the_weighted_mean_of_the_calibrated_members(tmp_path: Path, source: LetterboxedSource) -> None:
    networks = [network(seed) for seed in range(3)]
    build_ensemble(networks, MEMBERS, [(32, 48)] * 3).save(tmp_path / "model.keras")
    joined = keras.models.load_model(tmp_path / "model.keras", compile=False)
    pictures = np.stack([source[position][0] for position in range(NUM)])
    wanted = sum(member.weight * softmax(np.asarray(one(pictures), float) / member.temperature, 1)
                 for one, member in zip(networks, MEMBERS, strict=True))
    np.testing.assert_allclose(softmax(np.asarray(joined.predict_on_batch(pictures), float), 1), wanted, atol=1e-6)
    assert joined.trainable_weights == [] and joined.input_shape == (None, 32, 48, 3)


def test_a_smaller_member_sees_the_pictures_in_its_own_size(tmp_path: Path, source: LetterboxedSource) -> None:
    large, small = network(0), network(1, 16, 24)
    build_ensemble([large, small], MEMBERS[1:], [(32, 48), (16, 24)]).save(tmp_path / "model.keras")
    joined = keras.models.load_model(tmp_path / "model.keras", compile=False)
    pictures = np.stack([source[position][0] for position in range(NUM)]).astype(np.float32)
    halved = np.stack([cv2.resize(picture, (24, 16), interpolation=cv2.INTER_AREA) for picture in pictures])
    own = softmax(np.asarray(large(pictures), float) / 1.5, 1), softmax(np.asarray(small(halved), float), 1)
    found = softmax(np.asarray(joined.predict_on_batch(pictures), float), 1)
    # not the same way of shrinking, yet nearer to it than to either member alone
    wanted = (0.2 * own[0] + 0.6 * own[1]) / 0.8
    assert np.abs(found - wanted).mean() < np.abs(found - own[0]).mean() / 3


@pytest.mark.parametrize("settings", [{"flip_tta": False}, {"flip_tta": True, "zooms": "1,1.2"}])
def test_where_all_may_answer_the_members_mean_is_what_the_file_predicts(source: LetterboxedSource, settings: dict) -> None:
    joined = build_ensemble([network(seed) for seed in range(3)], MEMBERS, [(32, 48)] * 3)
    asked = Evaluate(batch_size=4, **settings)
    shares = member_probabilities(joined, 3, source, asked)
    found = weighted_mean(shares, np.ones((3, NUM), bool), MEMBERS)
    np.testing.assert_allclose(found, predict(joined, source, asked), atol=1e-6)
    assert len({tuple(row.round(6)) for row in found}) == NUM


def test_who_was_trained_on_a_picture_does_not_answer_and_its_recipe_keeps_its_weight() -> None:
    shares = np.array([[[1.0, 0.0]] * 4, [[0.5, 0.5]] * 4, [[0.0, 1.0]] * 4])
    may_answer = np.array([[True, True, False, False], [True, False, True, False], [True, True, False, True]])
    found = weighted_mean(shares, may_answer, MEMBERS)
    np.testing.assert_allclose(found, [[0.3, 0.7], [0.4, 0.6], [0.5, 0.5], [0, 1]])


def test_a_picture_that_every_member_was_trained_on_gets_no_number() -> None:
    found = weighted_mean(np.full((3, 1, 2), 0.5), np.zeros((3, 1), bool), [replace(one) for one in MEMBERS])
    assert np.isnan(found).all()
