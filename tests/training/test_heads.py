"""The head's fit."""

import keras
import numpy as np

from carclf.config import load_config
from carclf.training.heads import build_head, fit_head


def test_the_accuracy_of_the_head_is_exact() -> None:
    """Fine-tuning compares its accuracies with this accuracy: in float32 an equal accuracy would seem better."""
    random = np.random.default_rng(0)
    x, labels = random.normal(size=(103, 4)).astype(np.float32), random.integers(0, 3, 103)
    config = load_config("demo", {"head.epochs": 3})
    keras.utils.set_random_seed(0)
    head = build_head(4, 3, config.model)
    _, accuracy, _ = fit_head(head, (x, labels), (x, labels), config.head)
    assert accuracy == (head.predict(x, verbose=0).argmax(1) == labels).mean() != np.float32(accuracy)
