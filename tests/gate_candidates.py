"""Candidates for the gate: real artifacts in a store, with answers as a test wants them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from carclf.artifacts import Archive, Decision, Evaluation, Metrics, Model, Provenance, Split, build
from carclf.config import Config, load_config
from carclf.evaluation import evaluate as measuring
from carclf.evaluation.metrics import classification_metrics
from carclf.services.storage import Store
from carclf.stages.promote import promote

DEFAULT_METRICS: Metrics = {"temperature": 1.0, "calibration_error": 0.02, "latency_ms": 5.0, "model_mb": 9.0,
                     "reload_difference": 1e-6}


@dataclass(frozen=True)
class Candidate:
    """What promote is given."""

    archive: Archive
    split: Split
    model: Model
    evaluation: Evaluation
    config: Config

    def promote(self, store: Store, config: Config | None = None, **given: str) -> tuple[Decision, bool]:
        return promote(self.archive, self.split, self.model, self.evaluation, config or self.config, store, **given)


def build_archive(store: Store) -> Archive:
    return build_artifact(store, Archive, {}, {}, {})


def build_split(store: Store, num_val: int = 60, name: str = "split", subsets: Sequence[str] = ()) -> Split:
    """A split of three classes, all in validation unless ``subsets`` say otherwise."""
    rows = pd.DataFrame({"id": [f"{n}.jpg" for n in range(num_val)], "label": [n % 3 for n in range(num_val)],
                         "subset": list(subsets) or "val", "sha256": [f"{n:064x}" for n in range(num_val)],
                         "source": "train"})
    return build_artifact(store, Split, {}, {"name": name}, {"class_names": [0, 1, 2]}, {"split.parquet": rows})


def build_candidate(
    store: Store, name: str, wrong: Sequence[int] = (), *, split: Split | None = None, num_val: int = 60,
    config: Config | None = None, **measures: Any,
) -> Candidate:
    """A model that answers the images at the positions ``wrong`` wrongly; a measure None was not measured."""
    config = config or load_config("demo")
    archive, split = build_archive(store), split or build_split(store, num_val)
    model = build_artifact(store, Model, {"archive": archive.key, "split": split.key}, {"name": name}, {"name": name},
                  {"model.keras": name.encode()})
    return Candidate(archive, split, model, build_evaluation(store, archive, split, model, wrong, config, measures), config)


def build_ensemble(store: Store, members: Sequence[Candidate], weights: Sequence[float], wrong: Sequence[int]) -> Candidate:
    """Several as one model of the first one's split, each of a recipe of its own."""
    first = members[0]
    told = [{"model": one.model.key, "evaluation": one.evaluation.key, "split": one.split.key, "run": "",
             "group": group, "temperature": 1.0, "weight": weight}
            for group, (one, weight) in enumerate(zip(members, weights, strict=True))]
    model = build_artifact(store, Model, first.model.inputs | {f"member_{n}": member.model.key for n, member in enumerate(members)},
                  {"weights": list(weights)}, {},
                  {"model.keras": b"ensemble", "ensemble.json": json.dumps({"members": told}).encode()})
    return Candidate(first.archive, first.split, model, build_evaluation(
        store, first.archive, first.split, model, wrong, first.config), first.config)


def build_evaluation(
    store: Store, archive: Archive, split: Split, model: Model, wrong: Sequence[int], config: Config,
    measures: dict[str, Any] | None = None,
) -> Evaluation:
    """The evaluation of a model on a split, under the key that the product would give to it."""
    rows = pd.read_parquet(split.path(store, "split.parquet"))
    rows = rows[rows["subset"] == "val"].reset_index(drop=True)
    positions = pd.Series(rows.index, rows.index)
    predicted = rows["label"].where(~positions.isin(list(wrong)), (rows["label"] + 1) % 3)
    found = classification_metrics(rows["label"].to_numpy(), pd.get_dummies(predicted).reindex(columns=range(3)).to_numpy(float))
    metrics = {"val_accuracy": found["accuracy"], "val_accuracy_low": found["interval"][0], "val_accuracy_high": found["interval"][1],
               **DEFAULT_METRICS, **(measures or {})}
    return build_artifact(store, Evaluation, {"archive": archive.key, "split": split.key, "model": model.key},
                 config.evaluate.model_dump(exclude={"batch_size"}) | {"salt": ""},
                 {key: value for key, value in metrics.items() if value is not None},
                 {"predictions.parquet": rows[["id", "label"]].assign(predicted=predicted),
                  "evaluation.json": json.dumps(found | {"class_names": [0, 1, 2]}).encode()}, measuring.VERSION)


def build_artifact(
    store: Store, kind: type, inputs: dict[str, str], settings: dict[str, Any], metrics: Metrics,
    files: dict[str, pd.DataFrame | bytes] | None = None, version: int = 1,
) -> Any:
    def make(folder: Path) -> Metrics:
        for name, content in (files or {}).items():
            if isinstance(content, bytes):
                (folder / name).write_bytes(content)
            else:
                content.to_parquet(folder / name, index=False)
        return metrics

    return build(kind, make, Provenance(version, inputs, settings), store)[0]
