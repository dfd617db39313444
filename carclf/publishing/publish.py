"""Publish the store's champion to a target, once."""

from collections.abc import Callable
from dataclasses import dataclass

from carclf.errors import StageSkipped, StageWaiting
from carclf.publishing.champion import ChampionName, read_champion, require_champion
from carclf.publishing.folder import publish_to_folder
from carclf.publishing.kaggle import publish_to_kaggle
from carclf.publishing.settings import FOLDER_ENV_VAR, KAGGLE_ENV_VAR, publish_settings
from carclf.runs.mlflow_mirror import publish_to_mlflow
from carclf.services.storage import Store

Publisher = Callable[[ChampionName, Store], tuple[str, bool]]


@dataclass(frozen=True)
class Published:
    """The outcome for a target: where the model is, and if it had been published before; or why it is not published.

    ``until`` is the earliest time (ISO 8601) at which another attempt is useful.
    """

    target: str
    model: str = ""
    location: str = ""
    reused: bool = False
    skip_reason: str = ""
    waiting: str = ""
    until: str = ""


def publish(store: Store, target: str) -> Published:
    """Publish the champion to one of TARGETS, unless it has been published there.

    Raise ServiceError, ConfigError, DataError or QualityError if that fails.
    """
    try:
        champion = read_champion(store)
        location, reused = TARGETS[target](champion, store)
    except StageSkipped as skipped:
        return Published(target, skip_reason=str(skipped))
    except StageWaiting as waiting:
        until = waiting.until.isoformat(timespec="seconds") if waiting.until else ""
        return Published(target, waiting=str(waiting), until=until)
    # MLflow's registry contains the model with the metrics, not the refitted one.
    model = champion.measured if target == "mlflow" else champion.model
    return Published(target, model, location, reused)


def _publish_to_folder(champion: ChampionName, store: Store) -> tuple[str, bool]:
    settings = publish_settings()
    if not settings.folder:
        raise StageSkipped(f"{FOLDER_ENV_VAR} is not set")
    return publish_to_folder(champion, store, settings)


def _publish_to_kaggle(champion: ChampionName, store: Store) -> tuple[str, bool]:
    settings = publish_settings()
    if not settings.kaggle_model:
        raise StageSkipped(f"{KAGGLE_ENV_VAR} is not set")
    return publish_to_kaggle(champion, store, settings)


def _publish_to_mlflow(champion: ChampionName, store: Store) -> tuple[str, bool]:
    published = publish_to_mlflow(store)
    require_champion(store, champion)  # MLflow got the champion of that moment
    return published


TARGETS: dict[str, Publisher] = {
    "folder": _publish_to_folder, "kaggle": _publish_to_kaggle, "mlflow": _publish_to_mlflow,
}
