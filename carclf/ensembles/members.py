"""The members of an ensemble. Only members that were not trained on an image may predict it.

cli/ensemble.py checks the requirements of members, such as equal data, classes and aspect ratios.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from typing_extensions import TypedDict  # pydantic needs it on Python 3.11

from carclf.artifacts import Model, Split
from carclf.dataset.champion_split import VAL, previous_values
from carclf.services.storage import Store, parse_object

Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Member:
    """A model of an ensemble, as ``ensemble.json`` lists it.

    Model, evaluation and split are keys of artifacts. Members with the same recipe have the same ``group``. The mean
    of the members' probabilities, each calibrated with its ``temperature``, is weighted with ``weight``.
    """

    model: str
    evaluation: str
    split: str
    run: str
    group: int
    temperature: float
    weight: float


class _Ensemble(TypedDict):
    members: list[Member]


def read_members(model: Model, store: Store) -> list[Member]:
    """Return the members of an ensemble; raise DataError if ``ensemble.json`` has another form."""
    data = model.path(store, "ensemble.json").read_bytes()
    path = f"models/{model.key}/ensemble.json in {store.url}"
    return parse_object(_Ensemble, data, path, "Restore it from a backup, or build the ensemble again.")["members"]


def write_members(path: Path, members: Sequence[Member], weight_metrics: dict[str, float | list[float]]) -> None:
    """Write ``ensemble.json``: the members and how well their weights fit."""
    path.write_text(json.dumps({"members": [asdict(member) for member in members]} | weight_metrics, indent=1))


def held_out_mask(rows: pd.DataFrame, members: Sequence[Member], store: Store) -> npt.NDArray[np.bool_]:
    """Return a mask, shape (members, rows), that is True if the member was not trained on the image or a copy of it."""
    # Images that a split excludes have copies among its training images, so only VAL and missing are held out.
    subsets = [previous_values(rows, Split.require(store, member.split).rows(store), "subset") for member in members]
    return np.array([(values.isna() | (values == VAL)).to_numpy() for values in subsets])


def effective_weights(held_out: npt.NDArray[np.bool_], members: Sequence[Member]) -> Probabilities:
    """Return the weight of each member for each image, shape (members, rows), given the mask of ``held_out_mask``.

    The weights of an image sum to 1, and are NaN if every member was trained on it. A group keeps its whole weight
    if any of its members may predict the image; the members that may predict it share the weight equally.
    """
    groups = np.array([member.group for member in members])
    weights = np.zeros(held_out.shape)
    for group in np.unique(groups):
        in_group = groups == group
        group_weight = sum(member.weight for member in members if member.group == group)
        weights[in_group] = group_weight * held_out[in_group] / np.maximum(held_out[in_group].sum(0), 1)
    with np.errstate(invalid="ignore"):
        return np.asarray(weights / weights.sum(0))


def with_group_weights(members: Sequence[Member], weights: Probabilities) -> list[Member]:
    """Return the members with the weight of their group, shape (groups,), which they share equally."""
    sizes = np.bincount([member.group for member in members])
    return [replace(member, weight=float(weights[member.group] / sizes[member.group])) for member in members]


def ids_predicted_identically(rows: pd.DataFrame, first: Model, second: Model, store: Store) -> set[str]:
    """Return the ids of the images that the same members predict with the same weights for both models.

    A model that is not an ensemble counts as its only member.
    """
    if not (first.is_ensemble or second.is_ensemble):
        return set()
    by_member = [_weights_by_member(rows, model, store) for model in (first, second)]
    keys = sorted(by_member[0].keys() | by_member[1].keys())
    zeros = np.zeros(len(rows))
    first_weights, second_weights = (np.array([weights.get(key, zeros) for key in keys]) for weights in by_member)
    return set(rows.loc[np.isclose(first_weights, second_weights).all(0), "id"])


def _weights_by_member(rows: pd.DataFrame, model: Model, store: Store) -> dict[str, Probabilities]:
    if not model.is_ensemble:
        return {model.key: np.ones(len(rows))}
    members = read_members(model, store)
    weights = effective_weights(held_out_mask(rows, members, store), members)
    return {member.model: row for member, row in zip(members, weights, strict=True)}
