"""The outcome of an experiment: every recipe compared with the baseline on the same images, and what it cost."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from itertools import product
from statistics import mean
from typing import TYPE_CHECKING, Any, NotRequired

import numpy as np
from pydantic import FiniteFloat, with_config
from typing_extensions import TypedDict  # pydantic needs it on Python 3.11

from carclf.artifacts import Evaluation, Model
from carclf.errors import CarclfError, QualityError
from carclf.experiments.ablations import ENSEMBLE
from carclf.experiments.plan import Plan, TrainingRun
from carclf.experiments.racing import recipes_stopped_early
from carclf.experiments.reproduce import reproduce_command
from carclf.experiments.search import num_earlier_trials
from carclf.experiments.significance import CorrectMatrix, RecipeComparison, compare_recipes, seed_std
from carclf.experiments.trainings import has_started
from carclf.experiments.variants import BASELINE
from carclf.inference.calibration import apply_temperature
from carclf.redaction import redact
from carclf.runs.record import Record, read_record
from carclf.runs.run import Run
from carclf.services.storage import Store, format_command

if TYPE_CHECKING:
    import pandas as pd

PROBABILITIES = r"^p\d+$"  # the columns of probabilities
Tables = dict[str, dict[int, "pd.DataFrame"]]  # by recipe and seed: the predictions of all folds, indexed by id
Row = dict[str, Any]


@with_config(extra="allow")
class OutcomeRow(TypedDict):
    """A recipe in ``outcome.json``; except for the baseline, it also has the fields of RecipeComparison."""

    recipe: str
    changes: dict[str, Any]
    num_seeds: int
    accuracy: FiniteFloat
    accuracy_std: FiniteFloat | None
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


class FailedRun(TypedDict):
    """A training run without a result."""

    run: str
    error: str


class Outcome(TypedDict):
    """The content of ``outcome.json``, described at ``compute_outcome``."""

    experiment: str
    recipe: str
    settings: dict[str, Any]
    seeds: list[int]
    num_folds: int
    significance_level: float
    num_images: int
    num_comparisons: int
    seed_std: FiniteFloat | None
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

    - ``experiment``, ``recipe``, ``settings``, ``seeds``, ``num_folds``, ``significance_level``: from the plan
    - ``num_images``, ``num_comparisons``, and ``seed_std``, the standard deviation of a seed's effect on all images
    - ``rows``: one per recipe, with ``recipe``, ``changes``, ``num_seeds``, ``accuracy``, ``accuracy_std``,
      ``minutes`` and ``images_per_second`` if known, ``relative_cost``, ``on_pareto_front``, ``runs``, ``command``,
      ``summary``, ``conclusion`` ("" for the baseline), and except for the baseline the fields of RecipeComparison
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
    correct = _correct_matrices(tables, plan.ensemble)
    stopped = {name: rung for name, rung in recipes_stopped_early(plan, store).items() if name not in tables}
    num_prior_recipes = len(stopped) + num_earlier_trials(plan)
    comparisons, seed_effect = compare_recipes(
        correct, BASELINE, significance_level=plan.significance_level, num_prior_recipes=num_prior_recipes
    )
    rows = _rows(plan, trainings, correct, comparisons)
    accounted = {run.recipe for run in trainings.failed} | set(stopped) | set(correct)
    expected = [*plan.recipes, *([ENSEMBLE] if plan.ensemble else [])]
    return {
        "experiment": plan.experiment, "recipe": plan.recipe, "settings": plan.settings,
        "significance_level": plan.significance_level, "num_images": correct[BASELINE].shape[1],
        "num_comparisons": len(comparisons) + num_prior_recipes, "seeds": plan.seeds, "num_folds": plan.num_folds,
        "seed_std": seed_effect, "rows": rows, "winner": _winner(rows, trainings),
        "stopped_early": [
            {"recipe": name, "epoch": epoch, "val_accuracy": accuracy} for name, (epoch, accuracy) in stopped.items()
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
    """Return a run's predictions with calibrated probabilities, as ``carclf ensemble`` averages them."""
    evaluation = run.artifact(Evaluation, "evaluate")
    table = evaluation.table(run.store, "predictions.parquet")
    columns = table.filter(regex=PROBABILITIES).columns
    table[columns] = apply_temperature(table[columns].to_numpy(float), evaluation.number("temperature"))
    return table


def _correct_matrices(tables: Tables, ensemble: Sequence[str]) -> dict[str, CorrectMatrix]:
    """Return the correct predictions of each recipe, and of the ensemble, on the images that all of them predicted."""
    every_table = [table for by_seed in tables.values() for table in by_seed.values()]
    ids = reduce(lambda common, table: common.intersection(table.index), every_table[1:], every_table[0].index)
    labels = every_table[0].loc[ids, "label"]
    correct: dict[str, CorrectMatrix] = {
        name: np.stack([(table.loc[ids, "predicted"] == labels).to_numpy() for table in by_seed.values()])
        for name, by_seed in tables.items()
    }
    members = [list(tables[name].values()) for name in ensemble if name in tables]
    if sum(map(len, members)) > 1:
        # divided by the number of seeds, so that every recipe has the same weight
        probabilities = [
            table.loc[ids].filter(regex=PROBABILITIES) / len(by_seed) for by_seed in members for table in by_seed
        ]
        averaged = sum(probabilities[1:], probabilities[0])
        predicted = averaged.idxmax(axis="columns").str[1:]
        correct[ENSEMBLE] = (predicted == labels).to_numpy()[None]
    return correct


def _rows(
    plan: Plan, trainings: _Trainings, correct: Mapping[str, CorrectMatrix], comparisons: Sequence[RecipeComparison],
) -> list[Row]:
    by_recipe = {comparison.recipe: comparison for comparison in comparisons}
    baseline_minutes = _training_cost(BASELINE, plan, trainings).get("minutes", 0.0)
    rows = []
    for name, matrix in correct.items():
        cost = _training_cost(name, plan, trainings)
        relative_cost = cost["minutes"] / baseline_minutes if cost and baseline_minutes else None
        row: Row = {
            "recipe": name, "changes": plan.recipes.get(name, {}), "num_seeds": len(matrix),
            "accuracy": float(matrix.mean()), "accuracy_std": seed_std(matrix), **cost, "relative_cost": relative_cost,
            "runs": [run.run_id for run in plan.training_runs if run.recipe == name],
            "command": reproduce_command(name, plan, trainings.evaluated),
        }
        rows.append(row | _conclusion(plan, name, by_recipe.get(name), relative_cost))
    return mark_pareto_front(rows)


def _conclusion(plan: Plan, name: str, comparison: RecipeComparison | None, relative_cost: float | None) -> Row:
    if comparison is None:
        return {"summary": "the baseline", "conclusion": ""}
    summary = comparison.summary(relative_cost)
    if name != ENSEMBLE and plan.config(name, plan.seeds[0], 0) == plan.config(BASELINE, plan.seeds[0], 0):
        summary = "the same as the baseline: it changes no settings"
    return asdict(comparison) | {"summary": summary, "conclusion": comparison.conclusion}


def _winner(rows: Sequence[Row], trainings: _Trainings) -> str:
    """Return the best run of the most accurate recipe that is better than the baseline, or "" if none is."""
    better = [row for row in rows if row["conclusion"] == "better" and row["recipe"] != ENSEMBLE]
    if not better:
        return ""
    recipe = max(better, key=lambda row: float(row["accuracy"]))["recipe"]
    runs = trainings.of_recipes([recipe]).values()
    return max(runs, key=lambda run: run.artifact(Evaluation, "evaluate").number("val_accuracy")).run_id


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


def mark_pareto_front(rows: Sequence[Row]) -> list[Row]:
    """Add ``on_pareto_front`` to each row: no other row is as accurate and cheaper, or more accurate and as cheap."""

    def is_dominated(row: Row) -> bool:
        point = (row["minutes"], row["accuracy"])
        return any(
            other["minutes"] <= point[0] and other["accuracy"] >= point[1]
            and (other["minutes"], other["accuracy"]) != point
            for other in rows if "minutes" in other
        )

    return [row | {"on_pareto_front": "minutes" in row and not is_dominated(row)} for row in rows]
