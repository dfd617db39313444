import numpy as np

from carclf.evaluation.classification import classification_metrics
from carclf.stats import wilson_interval


def test_metrics_of_a_small_example_are_correct() -> None:
    metrics = classification_metrics(np.array([0, 0, 1, 2]), np.eye(3)[[0, 1, 1, 2]])
    assert metrics == {
        "num_images": 4, "num_correct": 3, "accuracy": 0.75, "interval": list(wilson_interval(3, 4)),
        "recall": [0.5, 1.0, 1.0], "confusion": [[1, 1, 0], [0, 1, 0], [0, 0, 1]],
    }
