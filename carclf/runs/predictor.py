"""The predictor of a selected model: its network with the views and the calibration of its evaluation."""

from typing import TYPE_CHECKING

from carclf.artifacts import Dataset, Split
from carclf.config import Evaluate, Validation
from carclf.evaluation.evaluate import tta_settings
from carclf.progress import log
from carclf.runs.model_selection import SelectedModel
from carclf.services.storage import Store

if TYPE_CHECKING:
    from carclf.inference.files import ImagePredictor


def load_predictor(selected: SelectedModel, store: Store) -> "ImagePredictor":
    """Return the network of a model with the views, the calibration and the size limit of its evaluation."""
    from carclf.inference.files import ImagePredictor

    settings = tta_settings(selected.evaluation)
    _log_model(selected, settings)
    return ImagePredictor(
        selected.model.network(store), selected.model.image_size, settings, selected.temperature or 1.0,
        _max_megapixels(selected, store),
    )


def _log_model(selected: SelectedModel, settings: Evaluate) -> None:
    views = f"zooms={settings.zooms} crops={settings.crops} flip_tta={settings.flip_tta}"
    log.info("predict: %s model=%s %s", selected.origin, selected.model.key, views)
    if selected.evaluation is None:
        log.warning("predict: the probabilities are not calibrated, because the store has no evaluation of this model. "
                    "To create one: carclf evaluate --run RUN")
    else:
        log.info("predict: calibrated temperature=%.3f evaluation=%s", selected.temperature, selected.evaluation.key)


def _max_megapixels(selected: SelectedModel, store: Store) -> float:
    """Return the size limit of the dataset that the model was trained on, or the default."""
    split = Split.find(store, selected.model.inputs.get("split", "none"))
    dataset = split and Dataset.find(store, split.input("dataset"))
    return float(dataset.settings["max_megapixels"]) if dataset else Validation().max_megapixels
