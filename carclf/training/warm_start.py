"""Going on from the champion's backbone instead of ImageNet's weights."""

from typing import Any

from carclf.artifacts import Model
from carclf.champion import champion_model
from carclf.errors import ConfigError
from carclf.services.storage import Store

NO_CHAMPION = "model.weights is 'champion', and the store has none to go on from. Run once with 'imagenet'."


def champions_weights(store: Store, inputs: dict[str, str], settings: dict[str, Any]) -> str:
    """What train_head's key knows the champion's weights by; ConfigError where they do not fit the settings.

    On the champion's own data and settings there is nothing to go on with: its own beginning is the answer, so that
    a run on unchanged data reuses everything instead of training one champion from another for ever.
    """
    champion = champion_model(store)
    start = champion and Model.find(store, champion.inputs["model"])
    if champion is None or start is None:
        raise ConfigError(NO_CHAMPION)
    theirs, own = start.settings["model"], settings["model"]
    if theirs["backbone"] != own["backbone"]:
        raise ConfigError(f"model.weights is 'champion', whose backbone is {theirs['backbone']}, not "
                          f"{own['backbone']}. Set model.backbone to it, or model.weights to 'imagenet'.")
    same = settings | {"model": own | {"weights": theirs["weights"]}}
    return str(theirs["weights"]) if (start.inputs, start.settings) == (inputs, same) else f"champion:{champion.key}"


def champions_backbone(store: Store, size: tuple[int, int]) -> Any:
    """The champion's network below its head, for pictures of the size (height, width)."""
    import keras  # here: a reused stage shall not import the training framework

    from carclf.training.backbones import backbone_of

    if (champion := champion_model(store)) is None:
        raise ConfigError(NO_CHAMPION)
    backbone = backbone_of(keras.models.load_model(champion.path(store, "model.keras"), compile=False))
    if (own := backbone.input_shape[1:3]) not in ((None, None), size):
        raise ConfigError(f"The champion takes pictures of {own[0]}x{own[1]} px only. Set model.image_height and "
                          "model.image_width to them, or model.weights to 'none'.")
    return backbone
