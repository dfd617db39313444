import numpy as np

from carclf.ensembles.member_weights import group_weights
from carclf.ensembles.members import Member, effective_weights, with_group_weights
from carclf.ensembles.network import cross_fitted_mean, weighted_mean

MEMBERS = [Member(f"m{n}", "e", "s", f"r{n}", group, 1.0, weight)
           for n, (group, weight) in enumerate([(0, 0.2), (0, 0.2), (1, 0.6)])]


def test_a_member_skips_its_training_images_and_its_group_keeps_the_weight() -> None:
    probabilities = np.array([[[1.0, 0.0]] * 4, [[0.5, 0.5]] * 4, [[0.0, 1.0]] * 4])
    held_out = np.array([[True, True, False, False], [True, False, True, False], [True, True, False, True]])
    mean = weighted_mean(probabilities, held_out, MEMBERS)
    np.testing.assert_allclose(mean, [[0.3, 0.7], [0.4, 0.6], [0.5, 0.5], [0, 1]])


def test_an_image_that_every_member_was_trained_on_has_no_weights() -> None:
    assert np.isnan(effective_weights(np.zeros((3, 1), bool), MEMBERS)).all()
    assert np.isnan(weighted_mean(np.full((3, 1, 2), 0.5), np.zeros((3, 1), bool), MEMBERS)).all()


def test_no_image_determines_the_weights_of_its_own_prediction() -> None:
    """Images of a fold are predicted with weights that are fitted to the other images."""
    random = np.random.default_rng(0)
    labels, folds = random.integers(0, 3, 90), np.arange(90) % 5
    probabilities = random.dirichlet([0.7] * 3, (3, 90))
    held_out = np.ones((3, 90), bool)
    held_out[0, ::7] = False  # the other member of the group predicts these images
    mean = cross_fitted_mean(probabilities, held_out, MEMBERS, labels, folds)
    np.testing.assert_allclose(mean.sum(1), 1)
    changed = np.where(folds == 2, (labels + 1) % 3, labels)
    after = cross_fitted_mean(probabilities, held_out, MEMBERS, changed, folds)
    np.testing.assert_array_equal(after[folds == 2], mean[folds == 2])
    assert (after[folds != 2] != mean[folds != 2]).any(axis=1).all()


def test_an_unknown_class_fits_no_weights_and_few_images_keep_the_deployed_ones() -> None:
    """Of 90 images of another split, 30 have a class that the members do not know."""
    random = np.random.default_rng(0)
    labels, folds = np.tile([-1, 0, 1], 30), np.arange(90) % 5
    probabilities, held_out = random.dirichlet([0.7] * 3, (3, 90)), np.ones((3, 90), bool)
    known = labels >= 0

    def mean(images: np.ndarray) -> np.ndarray:
        return cross_fitted_mean(probabilities[:, images], held_out[:, images], MEMBERS, labels[images], folds[images])

    np.testing.assert_allclose(mean(labels < 2)[known], mean(known))
    few = np.arange(90) < 40
    deployed = weighted_mean(probabilities, held_out, MEMBERS)
    np.testing.assert_array_equal(mean(few), deployed[few])
    assert not np.allclose(mean(known), deployed[known])


def test_the_members_of_a_group_share_its_weight() -> None:
    weighted = with_group_weights(MEMBERS, np.array([0.5, 0.5]))
    assert [member.weight for member in weighted] == [0.25, 0.25, 0.5]
    assert group_weights(np.full((2, 29), 0.5)).tolist() == [0.5, 0.5]
