"""The outcome of an experiment: every recipe compared with the baseline on the same images, and what it cost."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from itertools import chain, product
from statistics import mean
from typing import TYPE_CHECKING, Any, NotRequired

import numpy as np
from pydantic import FiniteFloat, with_config
from typing_extensions import TypedDict  # pydantic needs it on Python 3.11

from carclf.artifacts import Evaluation, Model, Split
from carclf.champion_history import MetricName
from carclf.errors import CarclfError, QualityError
from carclf.evaluation.assessment import dependent_images
from carclf.experiments.ablations import ENSEMBLE
from carclf.experiments.plan import Plan, TrainingRun
from carclf.experiments.racing import recipes_stopped_early
from carclf.experiments.reproduce import reproduce_command
from carclf.experiments.search import num_earlier_trials
from carclf.experiments.significance import (
    AccuracyResults,
    MetricResults,
    RecipeComparison,
    Results,
    compare_recipes,
    seed_std,
)
from carclf.experiments.trainings import has_started
from carclf.experiments.variants import BASELINE
from carclf.inference.calibration import apply_temperature
from carclf.metrics import METRICS, Metric
from carclf.natural_order import sort_naturally
from carclf.paired_bootstrap import Examples, selection_optimism
from carclf.redaction import redact
from carclf.runs.record import Record, read_record
from carclf.runs.run import Run
from carclf.services.storage import Store, format_command
from carclf.stats import class_positions, classes_with_probabilities, probability_columns

if TYPE_CHECKING:
    import pandas as pd

Tables = dict[str, dict[int, "pd.DataFrame"]]  # by recipe and seed: the predictions of all folds, indexed by id
Row = dict[str, Any]


@with_config(extra="allow")
class OutcomeRow(TypedDict):
    """A recipe in ``outcome.json``; except for the baseline, it also has the fields of RecipeComparison.

    ``value`` is the mean of the metric over the seeds.
    """

    recipe: str
    changes: dict[str, Any]
    num_seeds: int
    accuracy: FiniteFloat
    value: FiniteFloat
    value_std: FiniteFloat | None
    difference: NotRequired[FiniteFloat]
    low: NotRequired[FiniteFloat]
    high: NotRequired[FiniteFloat]
    p_value: NotRequired[FiniteFloat]
    minutes: NotRequired[FiniteFloat]
    images_per_second: NotRequired[FiniteFloat]
    relative_cost: FiniteFloat | None
    on_pareto_front: bool
    runs: list[str]
    command: str
    summary: str
    conclusion: str


class StoppedRecipe(TypedDict):
    """A recipe that was eliminated at a rung."""

    recipe: str
    epoch: int
    val_accuracy: float
    val_metric: FiniteFloat


class FailedRun(TypedDict):
    """A training run without a result."""

    run: str
    error: str


class Outcome(TypedDict):
    """The content of ``outcome.json``, described at ``compute_outcome``."""

    experiment: str
    metric: MetricName
    recipe: str
    settings: dict[str, Any]
    seeds: list[int]
    num_folds: int
    significance_level: float
    num_images: int
    num_comparisons: int
    seed_std: FiniteFloat | None
    selection_optimism: NotRequired[FiniteFloat]  # older outcomes lack it
    rows: list[OutcomeRow]
    winner: str
    stopped_early: list[StoppedRecipe]
    failed: list[FailedRun]
    not_trained: list[str]


@dataclass(frozen=True)
class _Trainings:
    """The evaluated training runs, and the errors of failed runs. Runs that never started are in neither."""

    evaluated: dict[TrainingRun, Run]
    failed: dict[TrainingRun, str]

    def of_recipes(self, recipes: Sequence[str]) -> dict[TrainingRun, Run]:
        return {training_run: run for training_run, run in self.evaluated.items() if training_run.recipe in recipes}


def compute_outcome(plan: Plan, store: Store) -> dict[str, Any]:
    """Return the content of ``outcome.json``.

    - ``metric``: the name of the metric that compares the recipes
    - ``experiment``, ``recipe``, ``settings``, ``seeds``, ``num_folds``, ``significance_level``: from the plan
    - ``num_images``, ``num_comparisons``, and ``seed_std``, the standard deviation of a seed's effect on all images
    - ``selection_optimism``: by how much the metric of the best model is expected to be too good, because the images
      that measure it also select it
    - ``rows``: one per recipe, with ``recipe``, ``changes``, ``num_seeds``, ``accuracy``, ``value`` and
      ``value_std`` of the metric, ``minutes`` and ``images_per_second`` if known, ``relative_cost``,
      ``on_pareto_front``, ``runs``, ``command``, ``summary``, ``conclusion`` ("" for the
      baseline), and except for the baseline the fields of RecipeComparison
    - ``winner``: the run to promote, or ""
    - ``stopped_early``, ``failed`` (with ``run`` and ``error``) and ``not_trained``: the recipes without a row

    Raise QualityError if no seed of the baseline is complete.
    """
    trainings = _load_trainings(plan, store)
    tables = _load_tables(plan, trainings)
    if BASELINE not in tables:
        reasons = "; ".join(trainings.failed.values()) or "It has not been trained yet"
        raise QualityError(f"There is nothing to compare with: no seed of the baseline of {plan.experiment!r} is "
                           f"complete. {reasons}. Fix the cause and run again: "
                           f"{format_command(store, f'experiment run --name {plan.experiment}')}")
    metric = _metric(trainings)
    predictions = _align(tables, plan.ensemble)
    accuracy = predictions.accuracy_results()
    results: Results = accuracy if metric.is_accuracy else predictions.metric_results(metric)
    stopped = {name: rung for name, rung in recipes_stopped_early(plan, store).items() if name not in tables}
    num_prior_recipes = len(stopped) + num_earlier_trials(plan)
    comparisons, seed_effect = compare_recipes(
        results, BASELINE, significance_level=plan.significance_level, num_prior_recipes=num_prior_recipes
    )
    rows = _rows(plan, trainings, _Compared(results, accuracy, comparisons))
    accounted = {run.recipe for run in trainings.failed} | set(stopped) | set(results.values)
    expected = [*plan.recipes, *([ENSEMBLE] if plan.ensemble else [])]
    return {
        "experiment": plan.experiment, "metric": metric.name, "recipe": plan.recipe, "settings": plan.settings,
        "significance_level": plan.significance_level, "num_images": results.num_images,
        "num_comparisons": len(comparisons) + num_prior_recipes, "seeds": plan.seeds, "num_folds": plan.num_folds,
        "seed_std": seed_effect, "selection_optimism": predictions.selection_optimism(metric),
        "rows": rows, "winner": _winner(rows, trainings, metric),
        "stopped_early": [
            {"recipe": name, "epoch": score.epoch, "val_accuracy": score.accuracy, "val_metric": score.value}
            for name, score in stopped.items()
        ],
        "failed": [
            {"run": run.run_id, "error": error} for run, error in trainings.failed.items() if run.recipe not in stopped
        ],
        "not_trained": [name for name in expected if name not in accounted],
    }


def _load_trainings(plan: Plan, store: Store) -> _Trainings:
    evaluated: dict[TrainingRun, Run] = {}
    failed: dict[TrainingRun, str] = {}
    for training_run in plan.training_runs:
        record: Record | None = None
        try:
            record = read_record(store, training_run.run_id)
            if record is None or not has_started(record):
                continue
            run = Run(training_run.run_id, store, record)
            run.artifact(Evaluation, "evaluate")
        except CarclfError as error:
            failed[training_run] = _failure_text(record) or redact(str(error))
        else:
            evaluated[training_run] = run
    return _Trainings(evaluated, failed)


def _failure_text(record: Record | None) -> str:
    attempts = record["attempts"].values() if record else ()
    return "; ".join(attempt["text"] for attempt in attempts if attempt["state"] == "failed")


def _load_tables(plan: Plan, trainings: _Trainings) -> Tables:
    """Return the predictions of each recipe and seed whose folds are all evaluated."""
    import pandas as pd

    tables: Tables = {}
    for name, seed in product(plan.recipes, plan.seeds):
        folds = [run for training_run, run in trainings.of_recipes([name]).items() if training_run.seed == seed]
        if len(folds) == len(plan.folds):
            tables.setdefault(name, {})[seed] = pd.concat(map(_predictions, folds)).set_index("id").sort_index()
    return tables


def _predictions(run: Run) -> "pd.DataFrame":
    """Return a run's predictions with their groups and calibrated probabilities, by cross-fitted temperatures.

    Probabilities are float32, because an experiment may have dozens of such tables.
    """
    evaluation = run.artifact(Evaluation, "evaluate")
    table = evaluation.table(run.store, "predictions.parquet")
    columns = _probability_columns(table)
    calibrated = apply_temperature(table[columns].to_numpy(float), table["temperature"].to_numpy(float))
    table = table.astype(dict.fromkeys(columns, np.float32))
    table[columns] = calibrated.astype(np.float32)
    rows = run.artifact(Split, "split").rows(run.store).set_index("id").loc[table["id"]]
    return table.assign(group=dependent_images(rows))


def _probability_columns(table: "pd.DataFrame") -> list[str]:
    return probability_columns(classes_with_probabilities(table))


def _metric(trainings: _Trainings) -> Metric:
    return METRICS[next(run.artifact(Split, "split").metric_name for run in trainings.evaluated.values())]


@dataclass(frozen=True)
class _AlignedPredictions:
    """The predictions of each recipe and of the ensemble, a table for each seed, of the same images in order."""

    tables: Mapping[str, Sequence["pd.DataFrame"]]

    @property
    def any_table(self) -> "pd.DataFrame":
        return self.tables[BASELINE][0]

    def accuracy_results(self) -> AccuracyResults:
        return AccuracyResults({
            name: np.stack([(table["predicted"] == table["label"]).to_numpy() for table in by_seed])
            for name, by_seed in self.tables.items()
        })

    def metric_results(self, metric: Metric) -> MetricResults:
        """Return the results for a metric. A class that a model does not know has the probability 0."""
        every_table = [table for by_seed in self.tables.values() for table in by_seed]
        known = map(classes_with_probabilities, every_table)
        names = sort_naturally({*chain.from_iterable(known), *self.any_table["label"]})
        examples = Examples(class_positions(self.any_table["label"].to_numpy(), names), names,
                            self.any_table["group"].tolist())
        return MetricResults(metric, examples, {
            name: np.stack([
                table.reindex(columns=probability_columns(names)).fillna(0).to_numpy() for table in by_seed
            ])
            for name, by_seed in self.tables.items()
        })

    def selection_optimism(self, metric: Metric) -> float:
        """Return the optimism of the best of all models of the recipes, without the ensemble."""
        results = self.metric_results(metric)
        models = [model for name, by_seed in results.probabilities.items() if name != ENSEMBLE for model in by_seed]
        return selection_optimism(metric, results.examples, models)


def _align(tables: Tables, ensemble: Sequence[str]) -> _AlignedPredictions:
    """Return the predictions of the images that all recipes predicted, and the ensemble's."""
    every_table = [table for by_seed in tables.values() for table in by_seed.values()]
    ids = reduce(lambda common, table: common.intersection(table.index), every_table[1:], every_table[0].index)
    aligned = {name: [table.loc[ids] for table in by_seed.values()] for name, by_seed in tables.items()}
    members = [aligned[name] for name in ensemble if name in aligned]
    if sum(map(len, members)) > 1:
        # divided by the number of seeds, so that every recipe has the same weight
        probabilities = [
            table[_probability_columns(table)] / (len(by_seed) * len(members))
            for by_seed in members for table in by_seed
        ]
        averaged = sum(probabilities[1:], probabilities[0])
        by_class = averaged.set_axis(classes_with_probabilities(averaged), axis="columns")
        predicted = by_class.idxmax(axis="columns")
        aligned[ENSEMBLE] = [averaged.assign(predicted=predicted, label=members[0][0]["label"])]
    return _AlignedPredictions(aligned)


@dataclass(frozen=True)
class _Compared:
    """The results of the recipes by the metric and by accuracy, and their comparisons with the baseline."""

    results: Results
    accuracy: AccuracyResults
    comparisons: Sequence[RecipeComparison]


def _rows(plan: Plan, trainings: _Trainings, compared: _Compared) -> list[Row]:
    by_recipe = {comparison.recipe: comparison for comparison in compared.comparisons}
    baseline_minutes = _training_cost(BASELINE, plan, trainings).get("minutes", 0.0)
    rows = []
    for name, values in compared.results.values.items():
        cost = _training_cost(name, plan, trainings)
        relative_cost = cost["minutes"] / baseline_minutes if cost and baseline_minutes else None
        row: Row = {
            "recipe": name, "changes": plan.recipes.get(name, {}), "num_seeds": len(values),
            "accuracy": float(compared.accuracy.values[name].mean()), "value": float(values.mean()),
            "value_std": seed_std(values), **cost, "relative_cost": relative_cost,
            "runs": [run.run_id for run in plan.training_runs if run.recipe == name],
            "command": reproduce_command(name, plan, trainings.evaluated),
        }
        rows.append(row | _conclusion(plan, name, by_recipe.get(name), relative_cost))
    return mark_pareto_front(rows, compared.results.metric)


def _conclusion(plan: Plan, name: str, comparison: RecipeComparison | None, relative_cost: float | None) -> Row:
    if comparison is None:
        return {"summary": "the baseline", "conclusion": ""}
    summary = comparison.summary(relative_cost)
    if name != ENSEMBLE and plan.planned_config(name) == plan.planned_config(BASELINE):
        summary = "the same as the baseline: it changes no settings"
    return asdict(comparison) | {"summary": summary, "conclusion": comparison.conclusion}


def _winner(rows: Sequence[Row], trainings: _Trainings, metric: Metric) -> str:
    """Return the best run of the best recipe that is better than the baseline, or "" if none is."""
    better = [row for row in rows if row["conclusion"] == "better" and row["recipe"] != ENSEMBLE]
    if not better:
        return ""
    recipe = max(better, key=lambda row: metric.improvement(row["value"], 0))["recipe"]
    runs = trainings.of_recipes([recipe]).values()
    return max(runs, key=lambda run: metric.improvement(_val_metric(run), 0)).run_id


def _val_metric(run: Run) -> float:
    metrics = run.artifact(Evaluation, "evaluate").metrics
    return float(str(metrics.get("val_metric", metrics["val_accuracy"])))  # older evaluations measured accuracy only


def _training_cost(name: str, plan: Plan, trainings: _Trainings) -> dict[str, float]:
    """Return ``minutes`` of training and ``images_per_second`` of fine-tuning; empty if no run was evaluated.

    Minutes are for one seed with all its folds; for the ensemble, for all its members.
    """
    if not (runs := trainings.of_recipes(plan.ensemble if name == ENSEMBLE else [name])):
        return {}
    num_seeds = 1 if name == ENSEMBLE else len({training_run.seed for training_run in runs})
    # Runs that differ only in evaluation share a model, so an ensemble counts its cost once.
    models = {run.artifact(Model, "fine_tune").key: run for run in runs.values()}
    seconds, rates = zip(*(_training_seconds(run) for run in models.values()), strict=True)
    cost = {"minutes": sum(seconds) / 60 / num_seeds}
    if known_rates := [rate for rate in rates if rate]:
        cost["images_per_second"] = mean(known_rates)
    return cost


def _training_seconds(run: Run) -> tuple[float, float]:
    """Return the seconds that training the head and fine-tuning took, and the images per second (0: unknown).

    The features count for every run that needs them, not only for the run that computed them.
    """
    import pandas as pd

    head = run.artifact(Model, "train_head")
    seconds = head.seconds + float(str(head.metrics.get("seconds_saved", 0)))
    path = run.artifact(Model, "fine_tune").path(run.store, "history.csv")
    history = pd.read_csv(path) if path.stat().st_size > 1 else pd.DataFrame()
    if history.empty:
        return seconds, 0.0
    return seconds + float(history["seconds"].sum()), float(history["images_per_second"].mean())


def mark_pareto_front(rows: Sequence[Row], metric: Metric) -> list[Row]:
    """Add ``on_pareto_front`` to each row: no other row is as good and cheaper, or better and as cheap."""

    def is_dominated(row: Row) -> bool:
        point = (row["minutes"], row["value"])
        return any(
            other["minutes"] <= point[0] and metric.improvement(other["value"], point[1]) >= 0
            and (other["minutes"], other["value"]) != point
            for other in rows if "minutes" in other
        )

    return [row | {"on_pareto_front": "minutes" in row and not is_dominated(row)} for row in rows]
