"""How fast each part of the network learns, and when."""

import keras
import numpy as np
import pytest

from carclf.training.optimizers import BlockRate
from carclf.training.schedules import block_rates, phases_by_epoch, warmup_cosine


@pytest.mark.parametrize(
    ("num_steps", "warmup_fraction", "expected"),
    [
        (100, 0.2, {0: 0, 10: 0.2, 20: 0.4, 40: 0.2 * (1 + 2**-0.5), 60: 0.2, 100: 0}),
        (10, 0.0, {0: 0.4, 5: 0.2, 10: 0}),
        (10, 1.0, {0: 0, 5: 0.2, 10: 0.4}),
    ],
)
def test_the_rate_rises_in_a_line_to_its_peak_and_falls_in_half_a_cosine_to_0(num_steps, warmup_fraction, expected):
    schedule = warmup_cosine(0.4, num_steps, warmup_fraction)
    found = [float(keras.ops.convert_to_numpy(schedule(step))) for step in expected]
    np.testing.assert_allclose(found, list(expected.values()), atol=1e-6)


def test_each_block_below_another_learns_more_slowly_and_joins_no_sooner():
    assert block_rates(4, decay=0.5, phase_starts=[0, 10]) == [
        BlockRate(0.0625, 10), BlockRate(0.125, 10), BlockRate(0.25, 0), BlockRate(0.5, 0)
    ]
    assert block_rates(3, decay=1.0, phase_starts=[0]) == [BlockRate(1.0, 0)] * 3
    assert block_rates(0, decay=0.5, phase_starts=[0]) == []


def test_phases_are_of_equal_length_but_for_rounding():
    assert phases_by_epoch(6, 3) == [0, 0, 1, 1, 2, 2]
    assert phases_by_epoch(5, 2) == [0, 0, 0, 1, 1]
    assert phases_by_epoch(0, 2) == []
