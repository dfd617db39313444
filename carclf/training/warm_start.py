"""Going on from the champion's backbone instead of ImageNet's weights."""

from dataclasses import dataclass
from typing import Any

from carclf.artifacts import Model, Provenance, Split
from carclf.champion import champion_model
from carclf.config import Config
from carclf.errors import ConfigError, DataError
from carclf.services.storage import Store

NO_CHAMPION = "model.weights is 'champion', and the store has none to go on from. Run once with 'imagenet'."
# What changes no weight: how fast pictures come, and when the state is saved.
SPEED = {"num_workers", "cache_gb", "checkpoint_minutes"}


@dataclass(frozen=True)
class WarmStart:
    """The model whose backbone a run goes on from, and what train_head's key knows those weights by."""

    model: Model
    identity: str


def champion_warm_start(
    store: Store, inputs: dict[str, str], settings: dict[str, Any], config: Config, version: int
) -> WarmStart:
    """Where train_head of these inputs, settings and version goes on from; ConfigError where that does not fit.

    DataError where the split does not know the champion: pictures that trained it would validate what goes on from it.
    On the champion's own data and settings, fine-tuning's included, there is nothing to go on with: the champion's
    own beginning is the answer, so that a run on unchanged data reuses everything instead of training one champion
    from another for ever.
    """
    champion = champion_model(store)
    if champion is not None:
        require_single_backbone(champion)
    start = champion and Model.find(store, champion.inputs["model"])
    if champion is None or start is None:
        raise ConfigError(NO_CHAMPION)
    _require_known(champion, inputs["split"], store)
    theirs, own = start.settings["model"], settings["model"]
    if theirs["backbone"] != own["backbone"]:
        raise ConfigError(f"model.weights is 'champion', whose backbone is {theirs['backbone']}, not "
                          f"{own['backbone']}. Set model.backbone to it, or model.weights to 'imagenet'.")
    same = settings | {"model": own | {"weights": theirs["weights"]}}
    unchanged = (start.key == Provenance(version, inputs, same).key(Model)
                 and champion.settings == fine_tune_settings(config, settings["salt"]))
    return WarmStart(start, str(theirs["weights"])) if unchanged else WarmStart(champion, f"champion:{champion.key}")


def require_single_backbone(champion: Model) -> None:
    """ConfigError where the champion has no one backbone to go on from."""
    if champion.is_ensemble:
        raise ConfigError(f"model.weights is 'champion', and the champion {champion.key} is an ensemble of several "
                          "networks. Set model.weights to 'imagenet', or roll back to a champion that is one.")


def _require_known(champion: Model, split: str, store: Store) -> None:
    """DataError unless the split is the champion's own, or one that was made with that one in mind."""
    key = split
    while key and key != champion.inputs["split"]:
        found = Split.find(store, key)
        key = found.inputs.get("champion", "") if found else ""
    if not key:
        raise DataError(f"model.weights is 'champion', and {champion.key} became it after this run was split: pictures "
                        "that trained it may validate here. Run split again (carclf split --run …, or clear that task) "
                        "and then train_head, or begin a new run.")


def fine_tune_settings(config: Config, salt: str) -> dict[str, Any]:
    """What decides a fine-tuning's result beside its inputs."""
    return {
        "fine_tune": config.fine_tune.model_dump(exclude=SPEED), "precision": config.model.precision,
        "augment": config.augment.model_dump(), "seed": config.seed, "salt": salt,
    }


def load_backbone(model: Model, store: Store, size: tuple[int, int]) -> Any:
    """The model's network below its head, for pictures of the size (height, width)."""
    import keras  # here: a reused stage shall not import the training framework

    from carclf.training.backbones import extract_backbone

    backbone = extract_backbone(keras.models.load_model(model.path(store, "model.keras"), compile=False))
    if (own := backbone.input_shape[1:3]) not in ((None, None), size):
        raise ConfigError(f"The champion takes pictures of {own[0]}x{own[1]} px only. Set model.image_height and "
                          "model.image_width to them, or model.weights to 'none'.")
    return backbone
