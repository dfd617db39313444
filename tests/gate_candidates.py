"""Candidates for the gate: artifacts in a store whose models make the predictions that a test asks for."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carclf import artifacts
from carclf.artifacts import Archive, Artifact, Decision, Evaluation, Metrics, Model, Provenance, Split, StageContext
from carclf.config import Config, load_config
from carclf.evaluation import evaluate
from carclf.evaluation.assessment import Predictions, compute_evaluation
from carclf.metrics import METRICS
from carclf.services.storage import Store
from carclf.stages import promote
from carclf.stats import class_positions

CLASS_NAMES = ["0", "1", "2"]
DEFAULT_METRICS: Metrics = {
    "calibration_error": 0.02,
    "latency_ms": 5.0,
    "model_mb": 9.0,
    "reload_difference": 1e-6,
}


@dataclass(frozen=True)
class Candidate(promote.Candidate):
    """A candidate with the configuration of its run."""

    config: Config

    def promote(self, store: Store, config: Config | None = None, **options: str) -> tuple[Decision, bool]:
        context = StageContext(store, config or self.config)
        return promote.promote(self, context, promote.PromotionOptions(**options))


def build_archive(store: Store) -> Archive:
    return build_artifact(store, Archive, Provenance(1, {}, {}))


def build_split(
    store: Store, num_val: int = 60, name: str = "split", subsets: Sequence[str] = (), metric: str = "accuracy"
) -> Split:
    """Build a split of three classes, with all images in validation unless ``subsets`` gives others."""
    positions = range(num_val)
    rows = pd.DataFrame(
        {
            "id": [f"{position}.jpg" for position in positions],
            "label": [CLASS_NAMES[position % 3] for position in positions],
            "subset": list(subsets) or "val",
            "sha256": [f"{position:064x}" for position in positions],
            "source": "train",
            "color_signature": b"",
            "phash": 0,
        }
    )
    rows["pixels_sha256"] = rows["sha256"]
    files = {"split.parquet": rows, "split_history.parquet": rows}
    provenance = Provenance(1, {}, {"name": name, "metric": metric})
    return build_artifact(store, Split, provenance, {"class_names": CLASS_NAMES, "metric": metric}, files)


def build_candidate(
    store: Store,
    name: str,
    wrong_positions: Sequence[int] = (),
    *,
    split: Split | None = None,
    config: Config | None = None,
    **metrics: Any,
) -> Candidate:
    """Build a model whose predictions at these positions are wrong. A metric of None was not measured."""
    config = config or load_config("demo")
    archive = build_archive(store)
    split = split or build_split(store)
    provenance = Provenance(1, {"archive": archive.key, "split": split.key}, {"name": name})
    properties = {"name": name, "class_names": CLASS_NAMES}
    model = build_artifact(store, Model, provenance, properties, {"model.keras": name.encode()})
    evaluation = build_evaluation(store, split, model, wrong_positions, config, **metrics)
    return Candidate(archive, split, model, evaluation, config)


def build_ensemble(
    store: Store, members: Sequence[Candidate], weights: Sequence[float], wrong_positions: Sequence[int]
) -> Candidate:
    """Build a model of several members, each of a recipe of its own, on the first member's split."""
    first = members[0]
    rows = [
        {
            "model": member.model.key,
            "evaluation": member.evaluation.key,
            "split": member.split.key,
            "run": "",
            "group": group,
            "temperature": 1.0,
            "weight": weight,
        }
        for group, (member, weight) in enumerate(zip(members, weights, strict=True))
    ]
    keys = {f"member_{number}": member.model.key for number, member in enumerate(members)}
    files = {"model.keras": b"ensemble", "ensemble.json": json.dumps({"members": rows}).encode()}
    provenance = Provenance(1, first.model.inputs | keys, {"weights": list(weights)})
    model = build_artifact(store, Model, provenance, {"class_names": CLASS_NAMES}, files)
    evaluation = build_evaluation(store, first.split, model, wrong_positions, first.config)
    return Candidate(first.archive, first.split, model, evaluation, first.config)


def build_evaluation(
    store: Store, split: Split, model: Model, wrong_positions: Sequence[int], config: Config, **metrics: Any
) -> Evaluation:
    """Build the evaluation of a model on a split, under the key that ``evaluate_model`` would give it."""
    rows = split.rows(store)
    rows = rows[rows["subset"] == "val"].reset_index(drop=True)
    labels = class_positions(rows["label"].to_numpy(), CLASS_NAMES)
    positions = np.where(rows.index.isin(list(wrong_positions)), labels + 1, labels) % len(CLASS_NAMES)
    probabilities = np.full((len(rows), len(CLASS_NAMES)), 0.1)
    probabilities[rows.index, positions] = 0.8
    predictions = Predictions(rows.assign(path=rows["id"]), CLASS_NAMES, probabilities, METRICS[split.metric_name])
    evaluation = compute_evaluation(predictions)
    all_metrics = {
        **{name: evaluation[name] for name in evaluate.METRIC_FIELDS},
        "val_accuracy": evaluation["accuracy"],
        "val_accuracy_low": evaluation["interval"][0],
        "val_accuracy_high": evaluation["interval"][1],
        **DEFAULT_METRICS,
        "temperature": evaluation["temperature"],
        **metrics,
    }
    inputs = {"archive": build_archive(store).key, "split": split.key, "model": model.key}
    settings = config.evaluate.model_dump(exclude={"batch_size"}) | {"salt": ""}
    files = {
        "predictions.parquet": predictions.table(),
        "evaluation.json": json.dumps(evaluation).encode(),
    }
    measured = {name: value for name, value in all_metrics.items() if value is not None}
    return build_artifact(store, Evaluation, Provenance(evaluate.VERSION, inputs, settings), measured, files)


def build_artifact(
    store: Store,
    kind: type[Artifact],
    provenance: Provenance,
    metrics: Metrics | None = None,
    files: Mapping[str, pd.DataFrame | bytes] | None = None,
) -> Any:
    """Build an artifact of this kind with these metrics and files."""

    def make(folder: Path) -> Metrics:
        for name, content in (files or {}).items():
            if isinstance(content, bytes):
                (folder / name).write_bytes(content)
            else:
                content.to_parquet(folder / name, index=False)
        return metrics or {}

    return artifacts.build(kind, make, provenance, store)[0]
