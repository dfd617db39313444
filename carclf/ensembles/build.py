"""Build an ensemble from the models of several runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from carclf.artifacts import Archive, Evaluation, Metrics, Model, Provenance, Split, StageContext, build, fingerprint
from carclf.config import Config
from carclf.dataset.archives import extract_images
from carclf.ensembles.member_weights import MIN_IMAGES, group_weights, log_loss
from carclf.progress import log
from carclf.stats import class_positions, probability_columns
from carclf.training.warm_start import fine_tune_settings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from carclf.ensembles.members import Member

VERSION = 3


@dataclass(frozen=True)
class TrainedModel:
    """A model that becomes a member of an ensemble, with the artifacts and the configuration of its run."""

    run_id: str
    config: Config
    model: Model
    evaluation: Evaluation
    split: Split


def build_ensemble_model(
    archive: Archive, members: Sequence[TrainedModel], context: StageContext
) -> tuple[Model, bool]:
    """Return an artifact that averages the members' calibrated probabilities, and whether it was reused.

    Members with the same recipe, which differ in seed or fold only, share their recipe's weight equally. The weights
    maximize the likelihood of images that no recipe was trained on. The ensemble has the first member's split.
    """
    inputs = {"archive": archive.key, "split": members[0].split.key}
    for number, member in enumerate(members):
        inputs |= {f"member_{number}": member.model.key, f"member_{number}_evaluation": member.evaluation.key}
    provenance = Provenance(VERSION, inputs, {"groups": _recipe_groups(members), "salt": context.salt})
    return build(Model, lambda folder: _build(folder, archive, members, context), provenance, context.store)


def _recipe_groups(members: Sequence[TrainedModel]) -> list[int]:
    """Return the number of each member's recipe, from 0."""
    recipes = [
        fingerprint(model=member.config.model.model_dump(), head=member.config.head.model_dump(),
                    rest=fine_tune_settings(member.config, "") | {"seed": None})
        for member in members
    ]
    return [list(dict.fromkeys(recipes)).index(recipe) for recipe in recipes]


def _build(folder: Path, archive: Archive, trained: Sequence[TrainedModel], context: StageContext) -> Metrics:
    from carclf.dataset.champion_split import VAL
    from carclf.ensembles.members import write_members
    from carclf.ensembles.network import build_ensemble
    from carclf.training.saving import write_reference_logits

    store = context.store
    members, weight_metrics = _weigh_members(trained, context)
    models = [member.model for member in trained]
    networks = [model.network(store) for model in models]
    network = build_ensemble(networks, members, [model.image_size for model in models])
    height, width = network.input_shape[1:3]
    rows = trained[0].split.rows(store)
    images = extract_images(archive, store)
    write_reference_logits(network, rows[rows["subset"] == VAL], images, (height, width), folder)
    network.save(folder / "model.keras")
    write_members(folder / "ensemble.json", members, weight_metrics)
    weights = {f"member_{number}_weight": round(member.weight, 4) for number, member in enumerate(members)}
    return {
        "num_members": len(members), **weights, "num_classes": models[0].metric("num_classes"),
        "class_names": models[0].class_names, "image_height": height, "image_width": width,
    }


def _weigh_members(
    trained: Sequence[TrainedModel], context: StageContext
) -> "tuple[list[Member], dict[str, float | list[float]]]":
    """Return the members with their weights, and the metrics of the weights."""
    import numpy as np

    from carclf.ensembles.members import Member, with_group_weights

    members = [
        Member(item.model.key, item.evaluation.key, item.split.key, item.run_id, group,
               temperature=item.evaluation.number("temperature"), weight=0.0)
        for item, group in zip(trained, _recipe_groups(trained), strict=True)
    ]
    likelihoods = _group_likelihoods(trained, members, context)
    num_groups, num_images = likelihoods.shape
    weights, uniform = group_weights(likelihoods), np.full(num_groups, 1 / num_groups)
    if num_images < MIN_IMAGES and num_groups > 1:
        log.warning("ensemble: uniform weights, too few images held out of every recipe num_images=%d min_images=%d",
                    num_images, MIN_IMAGES)
    metrics: dict[str, float | list[float]] = {"num_images": num_images, "group_weights": weights.tolist()}
    if num_images:
        metrics["log_loss"] = log_loss(weights, likelihoods)
        metrics["log_loss_uniform"] = log_loss(uniform, likelihoods)
    return with_group_weights(members, weights), metrics


def _group_likelihoods(
    trained: Sequence[TrainedModel], members: "Sequence[Member]", context: StageContext
) -> "npt.NDArray[np.float64]":
    """Return each recipe's mean probability of the labels, shape (groups, images).

    The images are those that every recipe predicted without having been trained on them.
    """
    import numpy as np
    import pandas as pd

    from carclf.inference.calibration import apply_temperature

    tables = []
    for item, member in zip(trained, members, strict=True):
        table = item.evaluation.table(context.store, "predictions.parquet")
        names = item.model.class_names
        uncalibrated = table[probability_columns(names)].to_numpy(float)
        probabilities = apply_temperature(uncalibrated, table["temperature"].to_numpy(float))
        of_label = probabilities[np.arange(len(table)), class_positions(table["label"].to_numpy(), names)]
        tables.append(pd.DataFrame({"id": table["id"], "group": member.group, "probability": of_label}))
    by_group = pd.concat(tables).pivot_table(index="group", columns="id", values="probability", aggfunc="mean")
    return by_group.dropna(axis="columns").to_numpy()
