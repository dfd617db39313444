"""The metrics that select a model, decide the gate and are compared with Kaggle's public score.

scikit-learn is imported inside the functions, because the pages and the settings need only names and directions.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from carclf.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Labels = npt.NDArray[np.integer]
    Probabilities = npt.NDArray[np.floating]

    Compute = Callable[[Labels, Probabilities, Sequence[str]], float]


@dataclass(frozen=True)
class Metric:
    """A metric of single-label classification.

    Attributes:
        name: The value of the setting ``data.metric``.
        title: What charts and reports call it.
        higher_is_better: Its direction.
        is_accuracy: It equals accuracy, so that McNemar's exact test compares two models.
        needs_probabilities: It depends on the probabilities, not only on the most probable class.
        limits: The smallest and the largest possible value.
        min_classes: It is undefined if the images have fewer classes.
    """

    name: str
    title: str
    higher_is_better: bool
    function: "Compute"
    is_accuracy: bool = False
    needs_probabilities: bool = False
    limits: tuple[float, float] = (0.0, 1.0)
    min_classes: int = 1

    @property
    def noun(self) -> str:
        """The title within a sentence."""
        return self.title if self.title[1].isupper() else self.title[0].lower() + self.title[1:]

    def compute(self, labels: "Labels", probabilities: "Probabilities", class_names: Sequence[str] = ()) -> float:
        """Return the metric of one model on images with labels.

        Args:
            labels: Positions of the classes, of shape (n,).
            probabilities: Of shape (n, k); each row sums to 1.
            class_names: The k names in order. Quadratic weighted kappa takes the classes' ranks from them.

        Raises:
            DataError: There are no images, or ROC AUC is undefined because all have the same class.
        """
        if not len(labels):
            raise DataError(f"Cannot compute {self.title}: there are no labeled images.")
        return float(self.function(labels, probabilities, class_names))

    def is_defined(self, labels: "Sequence[Any] | Labels") -> bool:
        """True if images with these labels have a value of the metric."""
        return len(set(labels)) >= self.min_classes

    def is_better(self, value: float, other: float) -> bool:
        """True if a value is strictly better than another; NaN is never better."""
        return value > other if self.higher_is_better else value < other

    def is_valid(self, value: float) -> bool:
        """Return whether a value is possible; NaN and infinity are not."""
        return math.isfinite(value) and self.limits[0] <= value <= self.limits[1]

    @property
    def label(self) -> str:
        """The noun, with the direction if a lower value is better."""
        return self.noun if self.higher_is_better else f"{self.noun} (lower is better)"

    def format_difference(self, difference: float, sign: str = "") -> str:
        """Format a difference in points, hundredths of the metric, or of a loss, which is no fraction, as it is."""
        if self.higher_is_better:
            return f"{round(100 * difference, 1) + 0:{sign}.1f}"  # + 0 turns -0.0 into 0.0
        return f"{round(difference, 4) + 0:{sign}.4f}"

    def improvement(self, value: float, other: float) -> float:
        """Return by how much a value is better than another; negative if it is worse."""
        return value - other if self.higher_is_better else other - value


def class_ranks(class_names: Sequence[str], num_classes: int) -> "npt.NDArray[np.float64]":
    """Return the rank of each class: the number that is its name, else its position if a name is not an integer."""
    import numpy as np

    try:
        return np.array([int(name) for name in class_names or range(num_classes)], float)
    except ValueError:
        return np.arange(num_classes, dtype=float)


def _accuracy(labels: "Labels", probabilities: "Probabilities", _: Sequence[str]) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, probabilities.argmax(axis=1)))


def _balanced_accuracy(labels: "Labels", probabilities: "Probabilities", _: Sequence[str]) -> float:
    """Return the mean recall of the classes that have images."""
    import numpy as np
    from sklearn.metrics import recall_score

    return float(recall_score(labels, probabilities.argmax(axis=1), labels=np.unique(labels), average="macro"))


def _macro_f1(labels: "Labels", probabilities: "Probabilities", _: Sequence[str]) -> float:
    """Return the mean F1 of the classes that have images or predictions."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, probabilities.argmax(axis=1), average="macro"))


def _micro_f1(labels: "Labels", probabilities: "Probabilities", _: Sequence[str]) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, probabilities.argmax(axis=1), average="micro"))


def _log_loss(labels: "Labels", probabilities: "Probabilities", _: Sequence[str]) -> float:
    """Return the mean negative logarithm of the label's probability; float32 probabilities are normalized again.

    Only the label's probability counts, so scikit-learn gets that of two classes: the label and all others. For all
    classes it would make several copies of the matrix.
    """
    import numpy as np
    from sklearn.metrics import log_loss

    probabilities = np.asarray(probabilities, float)
    of_label = probabilities[np.arange(len(labels)), labels] / probabilities.sum(axis=1)
    return float(log_loss(np.ones(len(labels)), of_label, labels=[0, 1]))


def _roc_auc(labels: "Labels", probabilities: "Probabilities", _: Sequence[str]) -> float:
    """Return the area for two classes; for more, the mean over the classes that have images inside and outside.

    For two classes it does not matter which one is positive, because their probabilities sum to 1.
    """
    import numpy as np
    from sklearn.metrics import roc_auc_score

    num_classes = probabilities.shape[1]
    columns = [1] if num_classes == 2 else range(num_classes)  # noqa: PLR2004
    areas = [
        roc_auc_score(labels == column, probabilities[:, column])
        for column in columns
        if 0 < np.count_nonzero(labels == column) < len(labels)
    ]
    if not areas:
        raise DataError("Cannot compute ROC AUC: all images have the same class. Set data.metric to another metric, or "
                        "provide validation images of at least two classes.")
    return float(np.mean(areas))


def _quadratic_weighted_kappa(labels: "Labels", probabilities: "Probabilities", class_names: Sequence[str]) -> float:
    """Return Cohen's kappa with the squared difference of ranks as its weight.

    scikit-learn supports only consecutive ranks. The expected disagreement of independent ratings is the sum of both
    variances and of the squared difference of the means.
    """
    ranks = class_ranks(class_names, probabilities.shape[1])
    actual = ranks[labels]
    predicted = ranks[probabilities.argmax(axis=1)]
    expected = actual.var() + predicted.var() + (actual.mean() - predicted.mean()) ** 2
    return float(1 - ((actual - predicted) ** 2).mean() / expected) if expected else 1.0


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "Accuracy", True, _accuracy, is_accuracy=True),
        Metric("balanced_accuracy", "Balanced accuracy", True, _balanced_accuracy),
        Metric("macro_f1", "Macro F1", True, _macro_f1),
        Metric("micro_f1", "Micro F1", True, _micro_f1, is_accuracy=True),
        Metric("log_loss", "Log loss", False, _log_loss, needs_probabilities=True,
               limits=(0.0, math.inf)),
        Metric("roc_auc", "ROC AUC", True, _roc_auc, needs_probabilities=True, min_classes=2),
        Metric("quadratic_weighted_kappa", "Quadratic weighted kappa", True, _quadratic_weighted_kappa,
               limits=(-1.0, 1.0)),
    )
}
