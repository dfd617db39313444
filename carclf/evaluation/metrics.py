"""Accuracy, recall per class and the confusion matrix."""

from typing import Any

import numpy as np
import numpy.typing as npt

from carclf.stats import wilson_interval


def classification_metrics(labels: npt.NDArray[Any], probabilities: npt.NDArray[Any]) -> dict[str, Any]:
    """Figures of predictions: labels (n,) of 0..classes-1, probabilities (n, classes).

    The recall of a class without images is None.
    """
    predicted, num_classes = probabilities.argmax(1), probabilities.shape[1]
    confusion = np.zeros((num_classes, num_classes), int)
    np.add.at(confusion, (labels, predicted), 1)
    correct = int((labels == predicted).sum())
    low, high = wilson_interval(correct, len(labels))
    counts = confusion.sum(1).tolist()
    recall = [int(confusion[c, c]) / counts[c] if counts[c] else None for c in range(num_classes)]
    return {
        "num_images": len(labels), "num_correct": correct, "accuracy": correct / len(labels),
        "interval": [low, high], "recall": recall, "confusion": confusion.tolist(),
    }
