"""The models of several runs joined, each weighted by what it said of pictures that it was not trained on."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carclf.artifacts import Archive, Evaluation, Metrics, Model, Provenance, Split, build, fingerprint
from carclf.progress import log
from carclf.runs.run import Run
from carclf.training.warm_start import fine_tune_settings

if TYPE_CHECKING:
    from carclf.ensembles.members import Member

VERSION = 1
MIN_PICTURES = 30  # that every recipe predicted unseen: with fewer the recipes count alike


def input_size(model: Model) -> tuple[int, int]:
    """Height and width of a model's pictures, in pixels."""
    return int(model.number("image_height")), int(model.number("image_width"))


def build_ensemble_model(run: Run, members: Sequence[Run]) -> tuple[Model, bool]:
    """The members' models in one file, which is a model as any other, and whether it was there."""
    models = [member.artifact(Model, "fine_tune") for member in members]
    evaluations = [member.artifact(Evaluation, "evaluate") for member in members]
    split, archive = members[0].artifact(Split, "split"), members[0].artifact(Archive, "download")

    def make(folder: Path) -> Metrics:
        return _join(folder, members, models, split, archive)

    groups = _groups(members)
    return build(Model, make, Provenance(VERSION, {
        "archive": archive.key, "split": split.key, "members": " ".join(model.key for model in models),
        "evaluations": " ".join(evaluation.key for evaluation in evaluations),
    }, {"groups": groups, "salt": run.context.salt}), run.store)


def _groups(members: Sequence[Run]) -> list[int]:
    """A number for each member: the same for those that differ in seed or fold only."""
    recipes = [fingerprint(model=member.config.model.model_dump(), head=member.config.head.model_dump(),
                           rest=fine_tune_settings(member.config, "") | {"seed": None}) for member in members]
    return [list(dict.fromkeys(recipes)).index(recipe) for recipe in recipes]


def _join(
    folder: Path, runs: Sequence[Run], models: Sequence[Model], split: Split, archive: Archive
) -> Metrics:
    import keras
    import pandas as pd

    from carclf.dataset.archives import extract_images
    from carclf.ensembles import network as ensembles
    from carclf.ensembles.members import write_members
    from carclf.training.probe import write_reference_logits

    store = runs[0].store
    members, told = _weighted(runs)
    networks = [keras.models.load_model(model.path(store, "model.keras"), compile=False) for model in models]
    network = ensembles.build_ensemble(networks, members, [input_size(model) for model in models])
    height, width = network.input_shape[1:3]
    rows = pd.read_parquet(split.path(store, "split.parquet"))
    write_reference_logits(network, rows[rows["subset"] == "val"], extract_images(archive, store), (height, width), folder)
    network.save(folder / "model.keras")
    write_members(folder / "ensemble.json", members, told)
    return {
        "num_members": len(members), "weights": " ".join(f"{member.weight:.4f}" for member in members),
        "num_classes": models[0].metrics["num_classes"], "image_height": height, "image_width": width,
        "class_names": models[0].class_names,
    }


def _weighted(runs: Sequence[Run]) -> "tuple[list[Member], dict[str, Any]]":
    """The members with their weights, and on what those were chosen."""
    import numpy as np

    from carclf.ensembles.member_weights import log_loss, mixture_weights

    members = [_member(run, group) for run, group in zip(runs, _groups(runs), strict=True)]
    likelihoods = _likelihoods(runs, members)
    num_groups, num_images = likelihoods.shape
    equal = np.full(num_groups, 1 / num_groups)
    weights = mixture_weights(likelihoods) if num_images >= MIN_PICTURES else equal
    if num_images < MIN_PICTURES and num_groups > 1:
        log.warning("ensemble: only %d pictures were predicted unseen by every recipe, so they count alike; %d are "
                    "needed to choose weights", num_images, MIN_PICTURES)
    sizes = np.bincount([member.group for member in members])
    told = {"num_images": num_images, "group_weights": weights.tolist()}
    if num_images:
        told |= {"log_loss": log_loss(weights, likelihoods), "log_loss_uniform": log_loss(equal, likelihoods)}
    return [replace(member, weight=float(weights[member.group] / sizes[member.group])) for member in members], told


def _member(run: Run, group: int) -> "Member":
    from carclf.ensembles.members import Member

    evaluation = run.artifact(Evaluation, "evaluate")
    return Member(run.artifact(Model, "fine_tune").key, evaluation.key, run.artifact(Split, "split").key, run.run_id,
                  group, evaluation.number("temperature"), 0.0)


def _likelihoods(runs: Sequence[Run], members: "Sequence[Member]") -> Any:
    """(groups, pictures): what each recipe gives to the labels of the pictures that all of them predicted unseen."""
    import numpy as np
    import pandas as pd

    from carclf.inference.calibration import apply_temperature

    told = []
    for run, member in zip(runs, members, strict=True):
        table = pd.read_parquet(run.artifact(Evaluation, "evaluate").path(run.store, "predictions.parquet"))
        shares = apply_temperature(table.filter(regex=r"^p\d+$").to_numpy(float), member.temperature)
        names = [int(name[1:]) for name in table.filter(regex=r"^p\d+$").columns]
        columns = np.searchsorted(names, table["label"])
        told.append(pd.DataFrame({"id": table["id"], "group": member.group,
                                  "share": shares[np.arange(len(table)), columns]}))
    by_group = pd.concat(told).pivot_table(index="group", columns="id", values="share", aggfunc="mean")
    return by_group.dropna(axis="columns").to_numpy()
