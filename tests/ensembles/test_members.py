import numpy as np

from carclf.ensembles.members import Member, effective_weights
from carclf.ensembles.network import weighted_mean

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
