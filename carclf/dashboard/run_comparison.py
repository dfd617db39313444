"""Compare two runs: settings, metrics, and predictions on their common validation images.

``common_images.py`` finds those images and runs the paired test.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from carclf.artifacts import Artifact, Evaluation, Metrics, Model, Split
from carclf.config import flatten
from carclf.dashboard import comparison_facts as facts
from carclf.dashboard.run_reader import RunReader, open_run
from carclf.errors import ConfigError
from carclf.formatting import finite_number
from carclf.metrics import METRICS
from carclf.services.storage import Store, format_command

if TYPE_CHECKING:
    from carclf.dashboard.common_images import CommonImages, EvaluatedRun

A = TypeVar("A", bound=Artifact)
NOT_SUBTRACTED = ("weakest_class", "val_accuracy_low", "val_accuracy_high", "val_metric_low", "val_metric_high")
SIGNIFICANCE_LEVEL = 0.05  # of the two-sided test


def compare_runs(store: Store, run_a: str, run_b: str, max_per_kind: int | None = None) -> facts.RunComparison:
    """Return what differs from run A to run B, with up to ``max_per_kind`` gained, lost and other predictions.

    ConfigError if a run is missing or has not been evaluated, or both are the same; DataError for damaged artifacts.
    """
    if run_a == run_b:
        raise ConfigError(f"Cannot compare the run {run_a!r} with itself. Give two runs: carclf runs compare A B")
    readers = [open_run(store, run) for run in (run_a, run_b)]
    from carclf.dashboard.previews import Previews

    a, b = (_evaluated_run(reader) for reader in readers)
    common_images = _common_images(readers, a, b)
    paired = common_images.paired()
    preview = Previews(readers)
    changed = [
        prediction.model_copy(update={"image": preview(prediction.path)})
        for prediction in common_images.changed_predictions(max_per_kind)
    ]
    conclusion, summary = _conclude(run_a, run_b, paired)
    return facts.RunComparison(
        a=facts.ComparedRun.model_validate(readers[0].index_row()),
        b=facts.ComparedRun.model_validate(readers[1].index_row()), conclusion=conclusion, summary=summary,
        settings=_setting_differences(readers[0].record["config"], readers[1].record["config"]),
        metrics=_metric_differences(a.evaluation.metrics, b.evaluation.metrics),
        paired=paired, classes=common_images.classes(), changed_predictions=changed,
        num_changed=int((common_images.rows["a"] != common_images.rows["b"]).sum()),
    )


def paired_conclusion(reader_a: RunReader, reader_b: RunReader) -> tuple[facts.PairedResult, str, str]:
    """Return the paired result of two different runs, the conclusion about B and its sentence; errors as above."""
    paired = _common_images([reader_a, reader_b], _evaluated_run(reader_a), _evaluated_run(reader_b)).paired()
    return paired, *_conclude(reader_a.run_id, reader_b.run_id, paired)


def _common_images(readers: Sequence[RunReader], a: "EvaluatedRun", b: "EvaluatedRun") -> "CommonImages":
    if a.split.metric_name != b.split.metric_name:
        raise ConfigError(f"Cannot compare the runs {readers[0].run_id!r} and {readers[1].run_id!r}: their metrics are "
                          f"{a.split.metric_name} and {b.split.metric_name}. Repeat one of them with the same "
                          "data.metric.")
    from carclf.dashboard.common_images import find_common_images

    return find_common_images(a, b, readers[0].store)


def _evaluated_run(reader: RunReader) -> "EvaluatedRun":
    from carclf.dashboard.common_images import EvaluatedRun

    split = _require(reader, "split", Split)
    return EvaluatedRun(_require(reader, "fine_tune", Model), split, _require(reader, "evaluate", Evaluation))


def _require(reader: RunReader, stage: str, kind: type[A]) -> A:
    artifact = reader.artifact(stage)
    if not isinstance(artifact, kind):
        command = format_command(reader.store, f"{stage} --run {reader.run_id}")
        raise ConfigError(f"The run {reader.run_id!r} cannot be compared: {stage} has not run yet. Run it: {command}")
    return artifact


def _setting_differences(config_a: dict[str, Any], config_b: dict[str, Any]) -> tuple[facts.Difference, ...]:
    a, b = flatten(config_a), flatten(config_b)
    different = [name for name in a | b if name not in a or name not in b or a[name] != b[name]]
    return tuple(facts.Difference(name=name, a=a.get(name), b=b.get(name)) for name in different)


def _metric_differences(metrics_a: Metrics, metrics_b: Metrics) -> tuple[facts.Difference, ...]:
    differences = []
    for name in metrics_a | metrics_b:
        a, b = finite_number(metrics_a.get(name)), finite_number(metrics_b.get(name))
        if a is not None or b is not None:
            difference = None if a is None or b is None or name in NOT_SUBTRACTED else b - a
            differences.append(facts.Difference(name=name, a=a, b=b, difference=difference))
    return tuple(differences)


def _conclude(run_a: str, run_b: str, paired: facts.PairedResult) -> tuple[str, str]:
    if paired.interval is None or paired.p_value is None or paired.difference is None:
        cause = "their common validation images are in too few groups" if paired.num_images else (
            "they have no common validation images that neither model was trained on")
        return "not_comparable", f"{run_a} and {run_b} cannot be compared: {cause}."
    metric = METRICS[paired.metric]
    scale, digits, unit = (100, 2, " points") if metric.higher_is_better else (1, 4, "")
    difference, low, high = (f"{scale * value:+.{digits}f}" for value in (paired.difference, *paired.interval))
    name = "" if metric.name == "accuracy" else f"{metric.label} "
    details = (f"{name}{paired.b:.4f} against {paired.a:.4f} on {paired.num_images} common images, a difference of "
               f"{difference}{unit} (95% interval {low} to {high}, p = {paired.p_value:.3g})")
    if paired.p_value > SIGNIFICANCE_LEVEL:
        return "inconclusive", f"Neither {run_b} nor {run_a} is shown to be better: {details}."
    conclusion = "better" if metric.is_better(paired.difference, 0) else "worse"
    return conclusion, f"{run_b} is {conclusion} than {run_a}: {details}."
