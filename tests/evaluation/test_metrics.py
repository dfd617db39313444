import numpy as np
import pytest
from scipy.stats import binomtest

from carclf.evaluation.metrics import classification_metrics
from carclf.stats import wilson_interval


@pytest.mark.parametrize(("successes", "total"), [(0, 10), (10, 10), (7, 10), (930, 1000), (1, 3)])
def test_the_interval_is_scipys_wilson_interval(successes: int, total: int) -> None:
    expected = binomtest(successes, total).proportion_ci(method="wilson")
    assert wilson_interval(successes, total) == pytest.approx((expected.low, expected.high))


def test_figures_of_a_small_example_are_right() -> None:
    found = classification_metrics(np.array([0, 0, 1, 2]), np.eye(3)[[0, 1, 1, 2]])
    interval = list(wilson_interval(3, 4))
    assert found == {
        "num_images": 4, "num_correct": 3, "accuracy": 0.75, "interval": interval,
        "recall": [0.5, 1.0, 1.0], "confusion": [[1, 1, 0], [0, 1, 0], [0, 0, 1]],
    }
