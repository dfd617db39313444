"""The metric: that of the settings, Kaggle's, or the usual one for the submission."""

import re
from collections.abc import Collection

from carclf.dataset.detection.result import Detection
from carclf.errors import ConfigError

# The first pattern that Kaggle's text contains, in lower case and without spaces, hyphens and underscores.
_PATTERNS = {
    "kappa": "quadratic_weighted_kappa", "balancedaccuracy|balancedcategor": "balanced_accuracy",
    "logloss|logarithmicloss|multiclassloss|crossentropy": "log_loss", "roc|auc|areaunder": "roc_auc",
    "macrof|f1?macro|macroaveragedf": "macro_f1", "microf|f1?micro|meanf|f1|fscore": "micro_f1",
    "accuracy|categorizationacc": "accuracy",
}
_BY_KIND = {"label": "accuracy", "positive": "roc_auc", "probabilities": "log_loss", "": "accuracy"}


def parse_metric(text: str) -> str:
    """Return the name of the metric that Kaggle's evaluation_metric describes, or an empty string."""
    text = re.sub("[ _-]", "", text.lower())
    return next((name for pattern, name in _PATTERNS.items() if re.search(pattern, text)), "")


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
        evidence = f"guessed from the submission, {kind or 'none'}; Kaggle's metric is {evaluation_metric!r}"
    if metric == "quadratic_weighted_kappa" and not all(re.fullmatch("-?[0-9]+", label) for label in labels):
        raise ConfigError(f"The metric {metric} ({evidence}) needs ordered classes, whose labels are whole numbers, but "
                          f"the data have {', '.join(sorted(labels)[:5])}. Set data.metric to another metric.")
    return Detection("metric", metric, evidence)
