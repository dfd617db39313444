"""The trainings of an experiment: data once for all, then each member, to a rung or to its end."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from carclf.artifacts import Model
from carclf.errors import CarclfError, ConfigError
from carclf.experiments.plan import Plan, TrainingRun
from carclf.progress import log
from carclf.runs.record import Record, change_record, read_record
from carclf.runs.run import Run
from carclf.services.storage import Store
from carclf.stages.chain import StageOptions

DATA_STAGES = ("download", "validate", "split")
TRAINING_STAGES = ("train_head", "fine_tune", "evaluate")
SPENT = "spent_seconds"  # in a member's record


def prepare(plan: Plan, fold: int, store: Store) -> None:
    """Run the data's stages once for a fold: every member takes what they left, whoever is crowned meanwhile."""
    if fold not in plan.folds:
        raise ConfigError(f"The experiment {plan.experiment!r} has no fold {fold}: give one from 0 to "
                          f"{plan.folds[-1]}.")
    first = next(member for member in plan.training_runs if member.fold == fold)
    run = _begin(plan, first, store)
    for stage in DATA_STAGES:
        run.run_stage(stage)


def train(plan: Plan, number: int, store: Store, *, pause_epoch: int = 0) -> dict[str, Any]:
    """Train a member to its end, or to a rung: its state (``done``, ``paused``, ``left out``), metrics and run.

    A member that already trained goes on from its checkpoint. With the budget spent none begins.
    """
    member = _member(plan, number)
    spent = minutes_spent(plan, store) if plan.budget_minutes else 0.0
    if 0 < plan.budget_minutes <= spent and not has_started(read_record(store, member.run_id)):
        log.info("experiment: %s is left out: %.1f of %g minutes are spent", member.run_id, spent, plan.budget_minutes)
        return {"state": "left out", "run": member.run_id}
    run = _begin(plan, member, store)
    _take_data(plan, member, run, store)
    with _spending(run):
        for stage in TRAINING_STAGES:
            result = run.run_stage(stage, StageOptions(pause_epoch=pause_epoch))
            if result.waiting:
                return _told(plan, member, "paused", result.metrics, pause_epoch, store)
    found = {"val_accuracy": float(run.artifact(Model, "fine_tune").metrics["val_accuracy"])}
    return _told(plan, member, "done", found, pause_epoch, store)


def train_group(plan: Plan, numbers: list[int], store: Store, *, pause_epoch: int = 0) -> list[dict[str, Any]]:
    """Members that share one training, one after the other; the first error is raised once all were tried."""
    found, errors = [], []
    for number in numbers:
        try:
            found.append(train(plan, number, store, pause_epoch=pause_epoch))
        except CarclfError as error:
            log.error("experiment: %s: %s", _member(plan, number).run_id, error)
            errors.append(error)
    if errors:
        raise errors[0]
    return found


def has_started(record: Record | None) -> bool:
    """Whether a member has done or tried anything but take the data."""
    return record is not None and any(name in record["stages"] | record.get("attempts", {}) for name in TRAINING_STAGES)


def minutes_spent(plan: Plan, store: Store) -> float:
    """What all members took so far, in minutes: also to a rung, also where they failed (not where they were killed)."""
    records = (read_record(store, member.run_id) for member in plan.training_runs)
    return sum(float(record.get(SPENT, 0)) for record in records if record) / 60


@contextmanager
def _spending(run: Run) -> Iterator[None]:
    """Add what this takes to the run's record: a stage's own seconds are of its last attempt alone."""
    started = time.monotonic()
    try:
        yield
    finally:
        seconds = round(time.monotonic() - started, 2)
        change_record(run.store, run.run_id, lambda record: record | {SPENT: record.get(SPENT, 0) + seconds})


def rung_key(plan: Plan, number: int, pause_epoch: int) -> str:
    """Where the store keeps what a member reached at a rung."""
    return f"experiments/{plan.experiment}/rungs/{pause_epoch}/{number}.json"


def _told(
    plan: Plan, member: TrainingRun, state: str, metrics: dict[str, Any], pause_epoch: int, store: Store
) -> dict[str, Any]:
    told = {"state": state, "run": member.run_id, **metrics}
    if pause_epoch:
        store.write(rung_key(plan, member.number, pause_epoch), json.dumps(told).encode())
    return told


def _member(plan: Plan, number: int) -> TrainingRun:
    members = plan.training_runs
    if not 0 <= number < len(members):
        raise ConfigError(f"The experiment {plan.experiment!r} has no member {number}: they are 0 to "
                          f"{len(members) - 1}.")
    return members[number]


def _begin(plan: Plan, member: TrainingRun, store: Store) -> Run:
    config = plan.config(member.recipe, member.seed, member.fold)
    return Run.start_or_resume(member.run_id, store, plan.recipe, config)


def _take_data(plan: Plan, member: TrainingRun, run: Run, store: Store) -> None:
    first = next(one for one in plan.training_runs if one.fold == member.fold)
    if first.run_id == run.run_id:
        return
    run.reuse_data_from(Run.load(first.run_id, store))
