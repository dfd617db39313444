"""Mutated JSON files of a store, seeded: each is read, or rejected with an error that names the file."""

import contextlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from gate_candidates import build_candidate
from mutations import Mutation, flip_bits, mutation_counts, repeat, splice, truncate
from recorded_runs import record_attempt, record_candidate

from carclf.artifacts import Evaluation
from carclf.champion import find_promotion, read_state
from carclf.cli.tables import champion_details, champion_rows, details_table, history_table, run_lines, runs_table
from carclf.dashboard.champion_facts import champion_facts
from carclf.dashboard.experiment_view import experiment_view
from carclf.dashboard.run_facts import run_facts
from carclf.dashboard.run_view import progress_lines
from carclf.errors import ConfigError, DataError
from carclf.experiments.plan import find_plan, make_plan, write_plan
from carclf.experiments.racing import recipes_stopped_early
from carclf.experiments.results import find_outcome, results_table
from carclf.experiments.trainings import rung_key
from carclf.progress import report_progress
from carclf.runs.index import list_runs, update_index
from carclf.runs.live import read_live_progress, record_progress
from carclf.runs.run import Run
from carclf.services.kaggle.submitting import Attempt
from carclf.services.storage import Store, init_store, require_marker
from carclf.stages.submit import StoredClaim
from carclf.training.checkpoints import Checkpoints

VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 3, 1.5, 1e308, float("nan"), float("inf"), 10**30, "", "x", "../x", "a" * 3000, "2026-13-01",
    "2026-01-01", "\0", "é", [], {}, [[]], [{}], {"x": 1}, ["x"],
)  # fmt: skip
CLAIM = "submissions/claims/cars-0.json"
COMPARISON = {"difference": 0.1, "low": 0.05, "high": 0.15, "p_value": 0.01, "minimum_detectable_difference": 0.05}
ROW = {"changes": {}, "num_seeds": 1, "value_std": None, "minutes": 2.0, "images_per_second": 9.5,
       "on_pareto_front": True, "runs": ["e-x-s0"], "command": "carclf run", "summary": "x"}  # fmt: skip
OUTCOME = {
    "experiment": "e", "metric": "accuracy", "recipe": "demo", "settings": {"seed": 1},
    "significance_level": 0.05, "num_images": 60,
    "num_comparisons": 1, "seeds": [0], "num_folds": 0, "seed_std": None, "selection_optimism": 0.0,
    "winner": "e-mixup-s0",
    "rows": [ROW | {"recipe": "baseline", "accuracy": 0.5, "value": 0.5, "conclusion": "", "relative_cost": None},
             ROW | COMPARISON | {"recipe": "mixup", "accuracy": 0.6, "value": 0.6,
                                "conclusion": "better", "relative_cost": 1.5}],
    "stopped_early": [{"recipe": "frozen", "epoch": 2, "val_accuracy": 0.4, "val_metric": 0.4}],
    "failed": [{"run": "e-y-s0", "error": "no images"}], "not_trained": ["z"],
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A kind of JSON file: the key of one, and a function that reads it as commands and pages do."""

    key: str
    read: Callable[[Store], object]


def read_champion(store: Store) -> None:
    if state := read_state(store):
        history_table(champion_rows(store, state))
        event = find_promotion(store, state, "r")
        details_table(champion_details(store, state, event))
    champion_facts(store)


def read_run(store: Store) -> None:
    run_lines(run_facts(store, "r"))
    Run.load("r", store)


def read_plan(store: Store) -> None:
    if plan := find_plan("e", store):
        plan.groups()
        recipes_stopped_early(plan, store)


def read_outcome(store: Store) -> None:
    if outcome := find_outcome("e", store):
        experiment_view(outcome, store)
        results_table(outcome, "")


def read_live(store: Store) -> None:
    progress_lines(read_live_progress(store, "r"))
    with record_progress(store, "r", "fine_tune"):
        report_progress("fine_tune", 5, 10, {"loss": 0.5})
    assert set(read_live_progress(store, "r")) == {"fine_tune"}


def read_index(store: Store) -> None:
    assert runs_table(list_runs(store))
    update_index(store, "r")


def read_claim(store: Store) -> None:
    StoredClaim(store, CLAIM).read()


def fill_store(store: Store) -> dict[str, Kind]:
    """Write a file of each kind; return the kinds by name."""
    candidate = build_candidate(store, "first", [1, 2])
    run = record_candidate(store, "r", candidate)
    candidate.promote(store, run_id="r")
    record_attempt(run, "promote", "failed", text="no reason")
    with record_progress(store, "r", "fine_tune"):
        report_progress("fine_tune", 1, 10, {"loss": 0.5})
        report_progress("fine_tune", 2, 10, {"val_loss": 0.5, "val_accuracy": 0.75})
    plan = make_plan("e", "demo", ["mixup", "frozen"], seeds=[0], rungs=[1])
    write_plan(plan, store)
    for number in range(3):
        report = {"run": plan.training_runs[number].run_id, "state": "paused", "val_accuracy": number / 4}
        store.write(rung_key(plan, number, 1), json.dumps(report).encode())
    store.write("experiments/e/outcome.json", json.dumps(OUTCOME).encode())
    StoredClaim(store, CLAIM).replace(Attempt(sent_at=datetime.now(UTC), num_counted=1, num_listed=1))
    for step in (1, 2):
        Checkpoints(store, "k").save([], [], {"step": step})
    evaluation = candidate.evaluation

    def read_manifest(store: Store) -> None:
        if artifact := Evaluation.find(store, evaluation.key):
            artifact.number("val_accuracy")
            artifact.input("model")
            with contextlib.suppress(DataError):  # names the file of the artifact
                artifact.path(store, "evaluation.json")

    return {
        "marker": Kind("store.json", require_marker), "champion": Kind("champion.json", read_champion),
        "manifest": Kind(f"evaluations/{evaluation.key}/manifest.json", read_manifest),
        "record": Kind("runs/r.json", read_run), "index": Kind("runs.json", read_index),
        "live": Kind("live/r/fine_tune.json", read_live), "claim": Kind(CLAIM, read_claim),
        "plan": Kind("experiments/e/plan.json", read_plan),
        "outcome": Kind("experiments/e/outcome.json", read_outcome), "rung": Kind(rung_key(plan, 1, 1), read_plan),
        "checkpoint": Kind("checkpoints/k/latest.json", lambda store: Checkpoints(store, "k").load()),
    }


def change_json(random: random.Random, data: bytes) -> bytes:
    """Replace, remove or rename one value anywhere in the document."""
    document = json.loads(data)
    parents = list(containers(document))
    parent = random.choice(parents)
    position = random.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    action = random.randrange(4)
    if action < 2:
        parent[position] = random.choice(VALUES)
    elif action == 2 and isinstance(parent, dict):
        parent[f"{position}x"] = parent.pop(position)
    else:
        del parent[position]
    return json.dumps(document).encode()


def containers(value: Any) -> list[Any]:
    """Return all objects and lists in a document that are not empty."""
    children = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [*([value] if children else []), *(inner for child in children for inner in containers(child))]


def fuzz(kind: Kind, num: int, store: Store) -> dict[str, int]:
    """Read mutations of a file; return how many were readable and how many rejected."""
    path = Path(store.url, kind.key)
    original = path.read_bytes()
    mutations: tuple[Mutation, ...] = (flip_bits, truncate, repeat, splice([original]), *[change_json] * 6)
    outcomes = {"read": 0, "rejected": 0}
    for number in range(num):
        chance = random.Random(number)
        path.write_bytes(chance.choice(mutations)(chance, original))
        try:
            kind.read(store)
            outcomes["read"] += 1
        except DataError as error:
            assert kind.key.removesuffix("/manifest.json") in str(error), error
            outcomes["rejected"] += 1
        except ConfigError as error:  # the file is valid, but what it names does not exist
            assert str(error)
            outcomes["rejected"] += 1
    path.write_bytes(original)
    kind.read(store)
    return outcomes


KINDS = ("marker", "champion", "manifest", "record", "index", "live", "claim", "plan", "outcome", "rung", "checkpoint")


@pytest.mark.timeout(3600)  # for 10,000 mutations
@pytest.mark.parametrize("name", KINDS)
@mutation_counts(60)
def test_a_mutated_file_is_read_or_rejected(name: str, num: int, tmp_path: Path) -> None:
    store = init_store(tmp_path)
    outcomes = fuzz(fill_store(store)[name], num, store)
    assert outcomes["read"] > 0 or name == "manifest"  # which has a checksum
    assert (outcomes["rejected"] > 0) == (name not in ("index", "live", "checkpoint"))
