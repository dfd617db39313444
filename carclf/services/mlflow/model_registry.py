"""The champion in MLflow's model registry: a version for each model that was promoted, and the alias ``champion``."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from carclf.services.mlflow.mlflow_run import MlflowRun

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel

ALIAS, KEY = "champion", "carclf.model"


@dataclass(frozen=True)
class ModelDescription:
    """A model in the store: its key, where it lies, and why it was promoted."""

    key: str
    url: str
    reason: str


def set_champion_alias(name: str, model_key: str) -> bool:
    """Make ``champion`` the version of that model and tell whether there is one; the alias may be there already."""
    from mlflow import MlflowClient

    client = MlflowClient()
    found = client.search_model_versions(f"name = '{name}' and tags.`{KEY}` = '{model_key}'")
    if not found:
        return False
    first = min(int(version.version) for version in found)
    if str(_registered(client, name).aliases.get(ALIAS, "")) != str(first):
        client.set_registered_model_alias(name, ALIAS, str(first))
    return True


def register_champion(name: str, run: MlflowRun, model: ModelDescription) -> None:
    """Register the model that a run made, and make it ``champion``."""
    _registered(run.client, name)
    # MLflow's server takes no folder outside of its own as a source: then it is the manifest among the run's artifacts.
    source = model.url if "://" in model.url else f"runs:/{run.id}/model"
    run.client.create_model_version(
        name, source, run.id, tags={KEY: model.key, "carclf.run": run.facts.run_id, "carclf.url": model.url},
        description=model.reason, await_creation_for=0,
    )
    set_champion_alias(name, model.key)


def _registered(client: "MlflowClient", name: str) -> "RegisteredModel":
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    try:
        return client.create_registered_model(name)
    except MlflowException:
        return client.get_registered_model(name)  # another worker was first
