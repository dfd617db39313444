"""Train the runs of an experiment: the data stages once per fold, then each training run to a rung or to its end."""

import json
import time
from typing import Any

from carclf.artifacts import Model
from carclf.errors import CarclfError, ConfigError
from carclf.experiments.plan import Plan, TrainingRun
from carclf.progress import log
from carclf.runs.record import Record, change_record, read_record
from carclf.runs.run import DATA_STAGES, Run
from carclf.services.storage import Store
from carclf.stages.chain import StageOptions

TRAINING_STAGES = ("train_head", "fine_tune", "evaluate")


def prepare(plan: Plan, fold: int, store: Store) -> None:
    """Run the data stages of a fold once; all its training runs use the result, even if the champion changes."""
    if fold not in plan.folds:
        raise ConfigError(f"The experiment {plan.experiment!r} has no fold {fold}. Give one from 0 to "
                          f"{plan.folds[-1]}.")
    run = _start_or_resume(plan, _first_of_fold(plan, fold), store)
    for stage in DATA_STAGES:
        run.run_stage(stage, StageOptions(experiment=True))


def train(plan: Plan, number: int, store: Store, *, pause_epoch: int = 0) -> dict[str, Any]:
    """Train a run to its end or, with ``pause_epoch``, to a rung; continue from its checkpoint if there is one.

    Return the id as ``run``, and ``state``: done, paused at the rung, or skipped because the budget is spent. Unless it
    was skipped, also return its metrics, with ``val_accuracy``, ``metric`` (its name) and ``val_metric``.
    """
    training_run = _training_run(plan, number)
    spent = minutes_spent(plan, store) if plan.budget_minutes else 0.0
    if 0 < plan.budget_minutes <= spent and not has_started(read_record(store, training_run.run_id)):
        log.info("experiment: skipped run=%s spent_minutes=%.1f budget_minutes=%g", training_run.run_id, spent,
                 plan.budget_minutes)
        return {"state": "skipped", "run": training_run.run_id}
    run = _start_or_resume(plan, training_run, store)
    first = _first_of_fold(plan, training_run.fold)
    if first.run_id != run.run_id:
        run.reuse_data_from(Run.load(first.run_id, store))
    report = {"run": run.run_id} | _run_stages(run, pause_epoch)
    if pause_epoch:
        store.write(rung_key(plan, number, pause_epoch), json.dumps(report).encode())
    return report


def _run_stages(run: Run, pause_epoch: int) -> dict[str, Any]:
    started = time.monotonic()
    try:
        for stage in TRAINING_STAGES:
            result = run.run_stage(stage, StageOptions(pause_epoch=pause_epoch))
            if result.waiting:
                return {"state": "paused", **result.metrics}
    finally:
        # The record keeps the sum, because a stage's result has the duration of its last attempt only.
        seconds = round(time.monotonic() - started, 2)
        change_record(run.store, run.run_id, lambda record: record | {
            "spent_seconds": record.get("spent_seconds", 0.0) + seconds,
        })
    metrics = run.artifact(Model, "fine_tune").metrics
    return {"state": "done"} | {name: metrics[name] for name in ("val_accuracy", "metric", "val_metric")}


def train_group(plan: Plan, numbers: list[int], store: Store, *, pause_epoch: int = 0) -> list[dict[str, Any]]:
    """Train the runs that share a training, one after the other, and raise the first error after the last one."""
    reports = []
    errors = []
    for number in numbers:
        try:
            reports.append(train(plan, number, store, pause_epoch=pause_epoch))
        except CarclfError as error:
            log.error("experiment: failed run=%s: %s", _training_run(plan, number).run_id, error)
            errors.append(error)
    if errors:
        raise errors[0]
    return reports


def has_started(record: Record | None) -> bool:
    """Return whether a training run has started a training stage; preparing the data does not count."""
    return record is not None and any(stage in record["stages"] | record["attempts"] for stage in TRAINING_STAGES)


def minutes_spent(plan: Plan, store: Store) -> float:
    """Return the minutes that all training runs have taken so far, including failed runs but not killed attempts."""
    records = (read_record(store, run.run_id) for run in plan.training_runs)
    return sum(record.get("spent_seconds", 0.0) for record in records if record) / 60


def rung_key(plan: Plan, number: int, pause_epoch: int) -> str:
    """Return the key of a training run's report at a rung."""
    return f"experiments/{plan.experiment}/rungs/{pause_epoch}/{number}.json"


def _training_run(plan: Plan, number: int) -> TrainingRun:
    runs = plan.training_runs
    if not 0 <= number < len(runs):
        raise ConfigError(f"The experiment {plan.experiment!r} has no training run {number}. Give a number from 0 to "
                          f"{len(runs) - 1}.")
    return runs[number]


def _first_of_fold(plan: Plan, fold: int) -> TrainingRun:
    return next(run for run in plan.training_runs if run.fold == fold)


def _start_or_resume(plan: Plan, run: TrainingRun, store: Store) -> Run:
    return Run.start_or_resume(run.run_id, store, plan.recipe, plan.config(run.recipe, run.seed, run.fold))
