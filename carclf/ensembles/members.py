"""Who of an ensemble may answer for which picture, and with what weight."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from carclf.artifacts import Model, Split
from carclf.dataset.champion_split import VAL, previous_values
from carclf.errors import DataError
from carclf.services.storage import Store

Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Member:
    """One of the models: keys, run, the group of those of its recipe, its temperature and its weight in the mean."""

    model: str
    evaluation: str
    split: str
    run: str
    group: int
    temperature: float
    weight: float


def read_members(model: Model, store: Store) -> list[Member]:
    """What ``ensemble.json`` says."""
    found = json.loads(model.path(store, "ensemble.json").read_text())["members"]
    return [Member(**member) for member in found]


def write_members(path: Path, members: Sequence[Member], metrics: dict[str, Any]) -> None:
    """Write ``ensemble.json``."""
    path.write_text(json.dumps({"members": [asdict(member) for member in members]} | metrics, indent=1))


def held_out_mask(rows: pd.DataFrame, members: Sequence[Member], store: Store) -> npt.NDArray[np.bool_]:
    """(members, rows): whether a member was not trained on a picture, nor on a copy of it."""
    # What it left out has a copy among its training pictures; what it does not know trained nobody.
    told = [previous_values(rows, split_rows(member.split, store), "subset") for member in members]
    return np.array([(found.isna() | (found == VAL)).to_numpy() for found in told])


def effective_weights(may_answer: npt.NDArray[np.bool_], members: Sequence[Member]) -> Probabilities:
    """What each member counts (members, rows), 1 together; not a number where none may answer.

    A group counts with its whole weight wherever one of it may answer, and those that may share it.
    """
    groups = np.array([member.group for member in members])
    found = np.zeros(may_answer.shape)
    for group in np.unique(groups):
        own = groups == group
        weight = sum(member.weight for member in members if member.group == group)
        found[own] = weight * may_answer[own] / np.maximum(may_answer[own].sum(0), 1)
    with np.errstate(invalid="ignore"):
        return np.asarray(found / found.sum(0))


def ids_predicted_identically(rows: pd.DataFrame, one: Model, other: Model, store: Store) -> set[str]:
    """Ids of the pictures that the same members answer for both models, with the same weights.

    A model that is no ensemble is its own only member.
    """
    if not (one.is_ensemble or other.is_ensemble):
        return set()
    weights = [_weights(rows, model, store) for model in (one, other)]
    keys = sorted(weights[0].keys() | weights[1].keys())
    nothing = np.zeros(len(rows))
    own, others = (np.array([found.get(key, nothing) for key in keys]) for found in weights)
    return set(rows.loc[np.isclose(own, others).all(0), "id"])


def _weights(rows: pd.DataFrame, model: Model, store: Store) -> dict[str, Probabilities]:
    if not model.is_ensemble:
        return {model.key: np.ones(len(rows))}
    members = read_members(model, store)
    found = effective_weights(held_out_mask(rows, members, store), members)
    return {member.model: weights for member, weights in zip(members, found, strict=True)}


def split_rows(key: str, store: Store) -> pd.DataFrame:
    """The rows of a member's split; DataError where it is gone."""
    if (split := Split.find(store, key)) is None:
        raise DataError(f"The split {key} of a member is gone from {store.url}: nobody can tell which pictures it was "
                        f"trained on. Restore splits/{key}.")
    return pd.read_parquet(split.path(store, "split.parquet"))
