"""What an experiment found: each recipe beside the baseline on the same images, and what it cost."""


from dataclasses import asdict
from functools import reduce
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd

from carclf.artifacts import Evaluation, Model
from carclf.errors import CarclfError, QualityError
from carclf.experiments.ablations import ENSEMBLE
from carclf.experiments.plan import Plan, TrainingRun
from carclf.experiments.racing import recipes_stopped_early
from carclf.experiments.reproduce import reproduce_command
from carclf.experiments.search import num_earlier_trials
from carclf.experiments.significance import CorrectMatrix, RecipeComparison, compare_recipes
from carclf.experiments.trainings import has_started
from carclf.experiments.variants import BASELINE
from carclf.inference.calibration import apply_temperature
from carclf.runs.record import Record, read_record
from carclf.runs.run import Run
from carclf.services.storage import Store, format_command

SHARES = r"^p\d+$"  # columns of probabilities
Tables = dict[str, dict[int, pd.DataFrame]]  # of each recipe and seed: id, label and probabilities, all folds


def compute_outcome(plan: Plan, store: Store) -> dict[str, Any]:
    """The comparison as ``outcome.json`` holds it; QualityError where the baseline did not finish."""
    runs, failed = _finished(plan, store)
    tables = _tables(plan, runs)
    if BASELINE not in tables:
        raise QualityError(f"The baseline of {plan.experiment!r} finished with no seed, so nothing can be compared: "
                           f"{'; '.join(failed.values()) or 'it was not trained, or left out'}. Mend it and run the "
                           f"experiment again: {format_command(store, f'experiment run --name {plan.experiment}')}")
    answers = _answers(tables, plan.ensemble)
    lost = {name: where for name, where in recipes_stopped_early(plan, store).items() if name not in tables}
    num_prior_recipes = len(lost) + num_earlier_trials(plan)
    verdicts, seed_std = compare_recipes(answers, BASELINE, level=plan.significance_level, num_prior_recipes=num_prior_recipes)
    costs = {name: training_cost(name, plan, runs) for name in answers}
    rows = [_row(name, answers[name], costs, next((v for v in verdicts if v.recipe == name), None), plan)
            | {"command": reproduce_command(name, plan, runs)}
            for name in answers]
    known = {member.recipe for member in failed} | set(lost) | set(answers)
    wanted = [*plan.recipes, *([ENSEMBLE] if plan.ensemble else [])]
    return {
        "experiment": plan.experiment, "recipe": plan.recipe, "settings": plan.settings, "level": plan.significance_level,
        "num_images": answers[BASELINE].shape[1], "num_comparisons": len(verdicts) + num_prior_recipes, "seeds": plan.seeds,
        "num_folds": plan.num_folds, "seed_std": seed_std, "rows": mark_pareto_front(rows),
        "winner": _winner(rows, runs),
        "stopped_early": [{"recipe": name, "epoch": epoch, "val_accuracy": accuracy}
                    for name, (epoch, accuracy) in lost.items()],
        "failed": [{"run": member.run_id, "error": error} for member, error in failed.items()
                   if member.recipe not in lost],
        "not_trained": [name for name in wanted if name not in known],
    }


def _winner(rows: list[dict[str, Any]], runs: dict[TrainingRun, Run]) -> str:
    """The run to promote: the best seed of the most accurate recipe that is better than the baseline; "" for none."""
    better = [row for row in rows if row["conclusion"] == "better" and row["recipe"] != ENSEMBLE]
    if not better:
        return ""
    name = max(better, key=lambda row: float(row["accuracy"]))["recipe"]
    own = {member.run_id: run for member, run in runs.items() if member.recipe == name}
    return max(own, key=lambda run: float(own[run].artifact(Evaluation, "evaluate").metrics["val_accuracy"]))


def _finished(plan: Plan, store: Store) -> tuple[dict[TrainingRun, Run], dict[TrainingRun, str]]:
    """The runs that were evaluated, and why others were not (those that never began are in neither)."""
    runs, failed = {}, {}
    for member in plan.training_runs:
        record: Record | None = {}
        try:
            record = read_record(store, member.run_id)
            if record is None or not has_started(record):
                continue
            run = Run(member.run_id, store, record)
            run.artifact(Evaluation, "evaluate")
        except CarclfError as error:
            failed[member] = _reason(record or {}) or str(error)
        else:
            runs[member] = run
    return runs, failed


def _reason(record: Record) -> str:
    """What the record says of the stages that failed."""
    attempts = record.get("attempts", {}).values()
    return "; ".join(str(told["text"]) for told in attempts if told["state"] == "failed")


def _tables(plan: Plan, runs: dict[TrainingRun, Run]) -> Tables:
    """The predictions of each recipe and seed of which every fold was evaluated."""
    found: Tables = {}
    for name in plan.recipes:
        for seed in plan.seeds:
            own = [run for member, run in runs.items() if (member.recipe, member.seed) == (name, seed)]
            if len(own) == len(plan.folds):
                found.setdefault(name, {})[seed] = pd.concat(map(_predictions, own)).set_index("id").sort_index()
    return found


def _predictions(run: Run) -> pd.DataFrame:
    """A run's answers, with calibrated probabilities: those that `carclf ensemble` averages."""
    evaluation = run.artifact(Evaluation, "evaluate")
    table = pd.read_parquet(evaluation.path(run.store, "predictions.parquet"))
    names = table.filter(regex=SHARES).columns
    table[names] = apply_temperature(table[names].to_numpy(float), evaluation.number("temperature"))
    return table


def _answers(tables: Tables, ensemble: list[str]) -> dict[str, CorrectMatrix]:
    """Which answers are right (seeds, images), on the images that all have."""
    every = [table for seeds in tables.values() for table in seeds.values()]
    ids = every[0].index
    for table in every[1:]:
        ids = ids.intersection(table.index)
    found = {name: np.stack([(table.loc[ids, "predicted"] == table.loc[ids, "label"]).to_numpy()
                             for table in seeds.values()]) for name, seeds in tables.items()}
    own = [list(tables[name].values()) for name in ensemble if name in tables]
    if sum(map(len, own)) > 1:
        # a recipe with more seeds counts no more than another one
        shares = [table.loc[ids].filter(regex=SHARES) / len(seeds) for seeds in own for table in seeds]
        named = reduce(pd.DataFrame.add, shares).idxmax(axis="columns").str[1:].astype(int)
        found[ENSEMBLE] = (named == own[0][0].loc[ids, "label"]).to_numpy()[None]
    return found


def _row(
    name: str, correct: CorrectMatrix, costs: dict[str, dict[str, float]], verdict: RecipeComparison | None, plan: Plan
) -> dict[str, Any]:
    own, base = costs[name], costs[BASELINE]
    ratio = own["minutes"] / base["minutes"] if own and base["minutes"] else None
    changes = plan.recipes.get(name, {})
    found: dict[str, Any] = {
        "recipe": name, "changes": changes, "num_seeds": len(correct), "accuracy": float(correct.mean()),
        "accuracy_std": float(correct.mean(1).std(ddof=1)) if len(correct) > 1 else None, **own, "cost": ratio,
        "summary": "the baseline", "conclusion": "",
        "runs": [member.run_id for member in plan.training_runs if member.recipe == name],
    }
    if verdict:
        found |= asdict(verdict) | {"conclusion": verdict.conclusion, "summary": verdict.summary(ratio)}
    if name not in (BASELINE, ENSEMBLE) and _changes_nothing(plan, name):
        found["summary"] = "the same as the baseline: it changes nothing of it"
    return found


def _changes_nothing(plan: Plan, name: str) -> bool:
    return plan.config(name, plan.seeds[0], 0) == plan.config(BASELINE, plan.seeds[0], 0)

def training_cost(name: str, plan: Plan, runs: dict[TrainingRun, Run]) -> dict[str, float]:
    """Minutes of training for one seed (all folds; of an ensemble all its seeds), and img/s while fine-tuning."""
    recipes = plan.ensemble if name == ENSEMBLE else [name]
    own = {member: run for member, run in runs.items() if member.recipe in recipes}
    if not own:
        return {}
    num_seeds = 1 if name == ENSEMBLE else len({member.seed for member in own})
    # Members that differ only in how they are evaluated have one model, and an ensemble of them pays for it once.
    trained = {run.artifact(Model, "fine_tune").key: run for run in own.values()}
    seconds, rates = zip(*(_seconds(run) for run in trained.values()), strict=True)
    known = [rate for rate in rates if rate]
    return {"minutes": sum(seconds) / 60 / num_seeds} | ({"images_per_second": mean(known)} if known else {})


def _seconds(run: Run) -> tuple[float, float]:
    """What head and fine-tuning take alone, by whoever made them first, and img/s.

    The features are counted for each that needs them, not only for the one that came first and computed them.
    """
    tuned, head = run.artifact(Model, "fine_tune"), run.artifact(Model, "train_head")
    seconds = head.seconds + float(head.metrics.get("seconds_saved", 0))
    history = _history(tuned, run.store)
    if history.empty:
        return seconds, 0.0
    return seconds + float(history["seconds"].sum()), float(history["images_per_second"].mean())


def _history(model: Model, store: Store) -> pd.DataFrame:
    path = model.path(store, "history.csv")
    return pd.read_csv(path) if path.stat().st_size > 1 else pd.DataFrame()


def mark_pareto_front(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row with ``front``: no other one costs less and is as accurate, or is more accurate and costs no more."""
    def beaten(row: dict[str, Any]) -> bool:
        return any(other["minutes"] <= row["minutes"] and other["accuracy"] >= row["accuracy"]
                   and (other["minutes"], other["accuracy"]) != (row["minutes"], row["accuracy"])
                   for other in rows if "minutes" in other)

    return [row | {"on_pareto_front": "minutes" in row and not beaten(row)} for row in rows]
