"""Accuracy, recall of each class, and the confusion matrix."""

from typing import Any

import numpy as np
import numpy.typing as npt

from carclf.stats import wilson_interval


def classification_metrics(labels: npt.NDArray[Any], probabilities: npt.NDArray[Any]) -> dict[str, Any]:
    """Return the metrics of predictions; the recall of a class without images is None.

    ``labels`` are positions of classes, shape (images,); ``probabilities`` have the shape (images, classes).
    """
    num_classes = probabilities.shape[1]
    predicted = probabilities.argmax(1)
    confusion = np.zeros((num_classes, num_classes), int)
    np.add.at(confusion, (labels, predicted), 1)
    num_correct = int((labels == predicted).sum())
    counts = confusion.sum(1).tolist()
    return {
        "num_images": len(labels), "num_correct": num_correct, "accuracy": num_correct / len(labels),
        "interval": list(wilson_interval(num_correct, len(labels))),
        "recall": [int(confusion[c, c]) / counts[c] if counts[c] else None for c in range(num_classes)],
        "confusion": confusion.tolist(),
    }
