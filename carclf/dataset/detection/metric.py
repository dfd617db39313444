"""The metric: that of the settings, Kaggle's, or the usual one for the submission."""

import re
from collections.abc import Collection

from carclf.dataset.detection.result import Detection
from carclf.errors import ConfigError
from carclf.formatting import format_list

# The words of Kaggle's text, all of which must occur, and the metric. The first entry that fits counts.
_WORDS = {
    "quadratic kappa": "quadratic_weighted_kappa", "quadraticweightedkappa": "quadratic_weighted_kappa",
    "balanced accuracy": "balanced_accuracy", "log loss": "log_loss", "logloss": "log_loss",
    "logarithmic loss": "log_loss", "multiclass loss": "log_loss", "multiclassloss": "log_loss",
    "cross entropy": "log_loss", "crossentropy": "log_loss", "roc": "roc_auc", "auc": "roc_auc",
    "area under curve": "roc_auc", "macro f": "macro_f1", "macro f1": "macro_f1", "macro fscore": "macro_f1",
    "macrofscore": "macro_f1", "micro f": "micro_f1", "micro f1": "micro_f1", "mean f": "micro_f1",
    "mean f1": "micro_f1", "meanfscore": "micro_f1", "mean fscore": "micro_f1", "f1": "macro_f1",
    "fscore": "macro_f1", "accuracy": "accuracy",
}
_UNSUPPORTED = {"weighted loss", "f beta", "fbeta", "map", "precision", "recall", "matthews", "mcc", "jaccard", "iou"}
_BY_KIND = {"label": "accuracy", "positive": "roc_auc", "probabilities": "log_loss", "": "accuracy"}


def parse_metric(text: str) -> str:
    """Return the name of the metric that Kaggle's evaluation_metric describes, or an empty string."""
    words = set(re.findall(r"[a-z]+[0-9]*", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower().replace("-score", "")))
    if any(words.issuperset(unsupported.split()) for unsupported in _UNSUPPORTED):
        return ""
    return next((name for needed, name in _WORDS.items() if words.issuperset(needed.split())), "")


def detect_metric(setting: str, evaluation_metric: str, kind: str, labels: Collection[str]) -> Detection:
    """Return the detection whose result is the metric. ``kind`` is that of the submission, "" without one.

    Raises ConfigError if the metric needs ordered classes, and the labels in the data are not numbers.
    """
    if setting != "auto":
        metric, evidence = setting, "data.metric"
    elif metric := parse_metric(evaluation_metric):
        evidence = f"Kaggle's metric is {evaluation_metric!r}"
    else:
        metric = _BY_KIND[kind]
        evidence = f"the default for a submission of kind {kind}" if kind else "the default"
        if evaluation_metric:
            evidence += f"; Kaggle's metric, {evaluation_metric!r}, is not supported"
    if metric == "quadratic_weighted_kappa" and not all(re.fullmatch("-?[0-9]+", label) for label in labels):
        raise ConfigError(f"The metric {metric} ({evidence}) needs ordered classes, whose labels are whole numbers, "
                          f"but the data have {format_list(sorted(labels))}. Set data.metric to another metric.")
    return Detection("metric", metric, evidence)
