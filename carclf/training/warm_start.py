"""Start a run from the champion's backbone instead of ImageNet's weights."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from carclf.artifacts import Model, Provenance, SoftTargets, Split, StageContext
from carclf.champion import champion_model
from carclf.config import Config, FineTune
from carclf.errors import ConfigError, DataError
from carclf.services.storage import Store

if TYPE_CHECKING:
    import keras

# These settings affect only the speed of reading and the times of checkpoints, never the weights.
SPEED_SETTINGS = {"num_workers", "cache_gb", "checkpoint_minutes"}
LATER_SETTINGS = {"refit"}  # about a later stage
IGNORED_SETTINGS = {"cosine": {"patience"}, "plateau": {"warmup_fraction"}}  # by schedule
TEACHER_SETTINGS = {"teacher", "teacher_weight"}


@dataclass(frozen=True)
class WarmStart:
    """The model whose backbone a run starts from, and the identity of these weights in train_head's key."""

    model: Model
    identity: str


def champion_warm_start(head: Provenance, context: StageContext) -> WarmStart:
    """Return the warm start of the train_head stage with this provenance.

    If the data and all settings, including those of fine-tuning, are the champion's, the run starts from the same
    weights as the champion. A run on unchanged data then reuses everything, instead of training one champion from
    another forever.

    Raise ConfigError if there is no champion, it is an ensemble, or it has another backbone, and DataError if the split
    ignores the champion, because it may use the champion's training images for validation.
    """
    store = context.store
    if (champion := champion_model(store)) is None:
        raise ConfigError(f"model.weights is 'champion', but {store.url} has no champion. Run once with "
                          "model.weights=imagenet.")
    require_single_backbone(champion)
    start = Model.require(store, champion.input("model"))
    _require_champion_split(champion, head.inputs["split"], store)
    champion_settings, settings = start.settings["model"], head.settings["model"]
    if champion_settings["backbone"] != settings["backbone"]:
        raise ConfigError("model.weights is 'champion', and the champion's backbone is "
                          f"{champion_settings['backbone']}, not {settings['backbone']}. Set model.backbone to it, or "
                          "model.weights to 'imagenet'.")
    weights = champion_settings["weights"]
    same = Provenance(head.version, head.inputs, {**head.settings, "model": settings | {"weights": weights}})
    if start.key == same.key(Model) and champion.settings == fine_tune_settings(context.config, context.salt):
        return WarmStart(start, str(weights))
    return WarmStart(champion, f"champion:{champion.key}")


def require_single_backbone(champion: Model) -> None:
    """Raise ConfigError if the champion is an ensemble, which has no single backbone to start from."""
    if champion.is_ensemble:
        raise ConfigError(f"model.weights is 'champion', but the champion {champion.key} is an ensemble of several "
                          "networks. Set model.weights to 'imagenet', or roll back to a champion that is a single "
                          "network.")


def _require_champion_split(champion: Model, split: str, store: Store) -> None:
    """Raise DataError unless the split is the champion's, or was derived from it."""
    key = split
    while key and key != champion.input("split"):
        ancestor = Split.find(store, key)
        key = ancestor.inputs.get("champion", "") if ancestor else ""
    if not key:
        raise DataError(f"model.weights is 'champion', but the model {champion.key} was promoted after this run was "
                        "split, so images that it was trained on may be used for validation. Run split again (carclf "
                        "split --run RUN, or clear that task) and then train_head, or start a new run.")


def excluded_settings(settings: FineTune) -> set[str]:
    """Return the settings of fine-tuning that are not part of its key, because they do not affect its result."""
    unused = set() if settings.teacher else TEACHER_SETTINGS
    return SPEED_SETTINGS | LATER_SETTINGS | IGNORED_SETTINGS[settings.schedule] | unused


def fine_tune_settings(config: Config, salt: str) -> dict[str, Any]:
    """Return the settings that, together with the inputs, determine the result of fine-tuning."""
    return {
        "fine_tune": config.fine_tune.model_dump(exclude=excluded_settings(config.fine_tune)),
        "precision": config.model.precision,
        "deterministic": config.model.deterministic,
        "augment": config.augment.model_dump(), "seed": config.seed, "salt": salt,
    }


def weights_license(model: Model, store: Store) -> str:
    """Return the license of the weights from a file that the model's training started from, or else its teacher's.

    "unknown" if the license is, and an empty string for other weights.
    """
    start = Model.find(store, model.inputs.get("model", "none")) or model
    if name := start.metrics.get("weights_license", ""):
        return str(name)
    targets = SoftTargets.find(store, model.inputs.get("soft_targets", "none"))
    teacher = targets and Model.find(store, targets.input("model"))
    return weights_license(teacher, store) if teacher else ""


def load_backbone(model: Model, store: Store, size: tuple[int, int]) -> "keras.Model":
    """Return the model's layers below its head, for images of the size (height, width).

    Raise ConfigError if the network only accepts images of another size.
    """
    from carclf.training.backbones import extract_backbone  # here: a reused stage must not import Keras

    backbone = extract_backbone(model.network(store))
    height, width = backbone.input_shape[1:3]
    if (height, width) not in ((None, None), size):
        raise ConfigError(f"The champion only accepts images of {height}x{width} px. Set model.image_height and "
                          "model.image_width to that size, or model.weights to 'none'.")
    return backbone
