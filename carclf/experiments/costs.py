"""What an experiment's recipes cost, and which are on the Pareto front of cost and accuracy."""

from statistics import mean
from typing import Any

import pandas as pd

from carclf.artifacts import Model
from carclf.experiments.ablations import ENSEMBLE
from carclf.experiments.plan import Member, Plan
from carclf.runs import Run
from carclf.services.storage import Store


def cost(name: str, plan: Plan, runs: dict[Member, Run]) -> dict[str, float]:
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
    seconds = head.seconds + float(head.figures.get("seconds_saved", 0))
    history = _history(tuned, run.store)
    if history.empty:
        return seconds, 0.0
    return seconds + float(history["seconds"].sum()), float(history["images_per_second"].mean())


def _history(model: Model, store: Store) -> pd.DataFrame:
    path = model.path(store, "history.csv")
    return pd.read_csv(path) if path.stat().st_size > 1 else pd.DataFrame()


def with_front(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row with ``front``: no other one costs less and is as accurate, or is more accurate and costs no more."""
    def beaten(row: dict[str, Any]) -> bool:
        return any(other["minutes"] <= row["minutes"] and other["accuracy"] >= row["accuracy"]
                   and (other["minutes"], other["accuracy"]) != (row["minutes"], row["accuracy"])
                   for other in rows if "minutes" in other)

    return [row | {"front": "minutes" in row and not beaten(row)} for row in rows]
