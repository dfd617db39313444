"""Candidates for the gate: real artifacts in a store, with answers as a test wants them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from carclf.artifacts import Archive, Decision, Evaluation, Figures, Model, Split, build
from carclf.config import Config, load
from carclf.evaluation import evaluate as measuring
from carclf.evaluation.metrics import summarize
from carclf.services.storage import Store
from carclf.stages.promote import promote

MEASURES: Figures = {"temperature": 1.0, "calibration_error": 0.02, "milliseconds": 5.0, "model_mb": 9.0,
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


def archive_in(store: Store) -> Archive:
    return built(store, Archive, {}, {}, {})


def split_in(store: Store, num_val: int = 60, name: str = "split", subsets: Sequence[str] = ()) -> Split:
    """A split of three classes, all in validation unless ``subsets`` say otherwise."""
    rows = pd.DataFrame({"id": [f"{n}.jpg" for n in range(num_val)], "label": [n % 3 for n in range(num_val)],
                         "subset": list(subsets) or "val", "sha256": [f"{n:064x}" for n in range(num_val)],
                         "source": "train"})
    return built(store, Split, {}, {"name": name}, {"class_names": "0 1 2"}, {"split.parquet": rows})


def candidate(
    store: Store, name: str, wrong: Sequence[int] = (), *, split: Split | None = None, num_val: int = 60,
    config: Config | None = None, **measures: Any,
) -> Candidate:
    """A model that answers the images at the positions ``wrong`` wrongly; a measure None was not measured."""
    config = config or load("demo")
    archive, split = archive_in(store), split or split_in(store, num_val)
    model = built(store, Model, {"archive": archive.key, "split": split.key}, {"name": name}, {"name": name},
                  {"model.keras": name.encode()})
    return Candidate(archive, split, model, evaluation(store, archive, split, model, wrong, config, measures), config)


def ensemble(store: Store, members: Sequence[Candidate], weights: Sequence[float], wrong: Sequence[int]) -> Candidate:
    """Several as one model of the first one's split, each of a recipe of its own."""
    first = members[0]
    told = [{"model": one.model.key, "evaluation": one.evaluation.key, "split": one.split.key, "run": "",
             "group": group, "temperature": 1.0, "weight": weight}
            for group, (one, weight) in enumerate(zip(members, weights, strict=True))]
    model = built(store, Model, first.model.inputs | {"members": " ".join(one.model.key for one in members)},
                  {"weights": list(weights)}, {},
                  {"model.keras": b"ensemble", "ensemble.json": json.dumps({"members": told}).encode()})
    return Candidate(first.archive, first.split, model, evaluation(
        store, first.archive, first.split, model, wrong, first.config), first.config)


def evaluation(
    store: Store, archive: Archive, split: Split, model: Model, wrong: Sequence[int], config: Config,
    measures: dict[str, Any] | None = None,
) -> Evaluation:
    """The evaluation of a model on a split, under the key that the product would give to it."""
    rows = pd.read_parquet(split.path(store, "split.parquet"))
    rows = rows[rows["subset"] == "val"].reset_index(drop=True)
    positions = pd.Series(rows.index, rows.index)
    predicted = rows["label"].where(~positions.isin(list(wrong)), (rows["label"] + 1) % 3)
    found = summarize(rows["label"].to_numpy(), pd.get_dummies(predicted).reindex(columns=range(3)).to_numpy(float))
    figures = {"val_accuracy": found["accuracy"], "low": found["interval"][0], "high": found["interval"][1],
               **MEASURES, **(measures or {})}
    return built(store, Evaluation, {"archive": archive.key, "split": split.key, "model": model.key},
                 config.evaluate.model_dump(exclude={"batch_size"}) | {"salt": ""},
                 {key: value for key, value in figures.items() if value is not None},
                 {"predictions.parquet": rows[["id", "label"]].assign(predicted=predicted),
                  "evaluation.json": json.dumps(found | {"class_names": [0, 1, 2]}).encode()}, measuring.VERSION)


def built(
    store: Store, kind: type, inputs: dict[str, str], settings: dict[str, Any], figures: Figures,
    files: dict[str, pd.DataFrame | bytes] | None = None, version: int = 1,
) -> Any:
    def make(folder: Path) -> Figures:
        for name, content in (files or {}).items():
            if isinstance(content, bytes):
                (folder / name).write_bytes(content)
            else:
                content.to_parquet(folder / name, index=False)
        return figures

    return build(kind, make, store=store, version=version, inputs=inputs, settings=settings)[0]
