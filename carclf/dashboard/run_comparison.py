"""Two runs side by side: settings, metrics, and their answers on the images that both validated on."""

from typing import TYPE_CHECKING, Any

from carclf.artifacts import Evaluation, Metrics, Model, Split
from carclf.config import flatten
from carclf.dashboard.run_sources import RunReader, open_run, to_jsonable
from carclf.errors import ConfigError
from carclf.formatting import finite_number
from carclf.runs.index import index_row, is_champion
from carclf.services.storage import Store

if TYPE_CHECKING:
    from carclf.dashboard.common_images import CommonImages

NAMES = ("weakest_class", "val_accuracy_low", "val_accuracy_high")  # a class, an interval's ends: their difference says nothing
LEVEL = 0.05  # of the two-sided test, from which a difference is believed


def compare_runs(store: Store, run_a: str, run_b: str) -> dict[str, Any]:
    """What differs from run A to run B; JSON-able. ConfigError where one is not there or has no evaluation.

    ``a`` and ``b``: ``run``, ``recipe``, ``created``, ``model``, ``champion``.
    ``settings``: those that differ: ``name`` (dotted), ``a``, ``b``.
    ``metrics``: ``name``, ``a``, ``b`` (numbers or None), ``difference`` (b - a, None where one is unknown).
    ``paired``, on the common images: ``num_images``, ``only_a_correct`` and ``only_b_correct`` (right), ``both_right``, ``both_wrong``,
    ``num_trained_on`` (left out: one of the models was trained on them), ``num_mismatched`` (left out: other label or content),
    ``num_same_members`` (left out: the same members answer); and where there are images ``accuracy_a``, ``accuracy_b``,
    ``difference`` (b - a), ``interval`` (low, high; 95%), ``p_value`` (McNemar's exact test, two-sided).
    ``classes``: ``label``, ``num``, ``a``, ``b`` (recall), ``difference``; the largest loss first.
    ``changed``: images answered otherwise, the surest of b first, MAX_CHANGED at most: ``id``, ``path``, ``label``,
    ``a``, ``a_probability``, ``b``, ``b_probability`` (calibrated, or None), ``kind`` (gained, lost, other: both
    wrong), ``picture`` (data: URI or ""); ``num_changed``: of all.
    ``verdict``: better, worse or inconclusive (b beside a), or none: no common images; ``sentence``: in words.
    """
    if run_a == run_b:
        raise ConfigError(f"{run_a!r} is one run. Give two different ones: carclf runs compare A B")
    sides = [_side(open_run(store, run)) for run in (run_a, run_b)]
    from carclf.dashboard.common_images import EvaluatedRun, find_common_images

    answered = [EvaluatedRun(one["model"], one["split"], one["evaluation"]) for one in sides]
    common_images = find_common_images(answered[0], answered[1], store)
    paired = common_images.paired()
    verdict, sentence = _verdict(run_a, run_b, paired)
    return dict(to_jsonable({
        "a": _named(sides[0]["source"]), "b": _named(sides[1]["source"]),
        "settings": _settings(*(one["source"].record["config"] for one in sides)),
        "metrics": _figures(*(one["evaluation"].metrics for one in sides)),
        "paired": paired, "classes": common_images.classes(),
        "changed": _changed(common_images, [one["source"] for one in sides]),
        "num_changed": common_images.num_changed, "verdict": verdict, "summary": sentence,
    }))


def _side(own: RunReader) -> dict[str, Any]:
    """A run's artifacts that are compared."""
    found: dict[str, Any] = {"source": own}
    for name, stage, kind in (("split", "split", Split), ("model", "fine_tune", Model),
                              ("evaluation", "evaluate", Evaluation)):
        artifact = own.artifact(stage)
        if not isinstance(artifact, kind):
            raise ConfigError(f"The run {own.run_id!r} has no {name} yet, which is needed to compare. Make it first: "
                              f"carclf {stage} --run {own.run_id}")
        found[name] = artifact
    return found


def _named(own: RunReader) -> dict[str, Any]:
    row = index_row(own.record) | {"run": own.run_id}
    return {name: row[name] for name in ("run", "recipe", "created", "model")} | {
        "champion": own.part("champion", lambda: is_champion(own.store, row), False)}


def _settings(config_a: dict[str, Any], config_b: dict[str, Any]) -> list[dict[str, Any]]:
    a, b = flatten(config_a), flatten(config_b)
    return [{"name": name, "a": a.get(name), "b": b.get(name)} for name in a | b
            if name not in a or name not in b or a[name] != b[name]]


def _figures(a: Metrics, b: Metrics) -> list[dict[str, Any]]:
    found = []
    for name in a | b:
        one, other = (finite_number(metrics.get(name)) for metrics in (a, b))
        if (one, other) != (None, None):
            difference = None if one is None or other is None or name in NAMES else other - one
            found.append({"name": name, "a": one, "b": other, "difference": difference})
    return found


def _changed(common: "CommonImages", sources: list[RunReader]) -> list[dict[str, Any]]:
    """The images answered otherwise, each with its picture where that is to be had without fetching the archive."""
    from carclf.dashboard.previews import Previews

    rows = common.changed()
    show = Previews(sources)
    return [row | {"picture": show(row["path"])} for row in rows]


def _verdict(run_a: str, run_b: str, paired: dict[str, Any]) -> tuple[str, str]:
    if not paired["num_images"]:
        return "none", (f"{run_a} and {run_b} cannot be compared: there is no image that both validated on and neither "
                        "was trained on.")
    low, high = paired["interval"]
    told = (f"{paired['accuracy_b']:.4f} against {paired['accuracy_a']:.4f} on {paired['num_images']} common images, a "
            f"difference of {100 * paired['difference']:+.2f} points (95% interval {100 * low:+.2f} to "
            f"{100 * high:+.2f}, p = {paired['p_value']:.3g})")
    if paired["p_value"] > LEVEL:
        return "inconclusive", f"Neither {run_b} nor {run_a} is shown to be better: {told}."
    word = "better" if paired["difference"] > 0 else "worse"
    return word, f"{run_b} is {word} than {run_a}: {told}."
