"""The champion in MLflow's model registry: a version per promoted model, and the alias ``champion``."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from carclf.services.mlflow.mlflow_run import MlflowRun

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel

ALIAS = "champion"
MODEL_TAG = "carclf.model"


@dataclass(frozen=True)
class ModelDescription:
    """A model in the store: its key, its URL, and why it was promoted."""

    key: str
    url: str
    reason: str


def set_champion_alias(name: str, model_key: str) -> bool:
    """Point the alias ``champion`` at the version of a model; return False if it is not registered."""
    from mlflow import MlflowClient

    client = MlflowClient()
    if not (versions := _versions_of_model(client, name, model_key)):
        return False
    first = str(versions[0])
    if str(_registered_model(client, name).aliases.get(ALIAS, "")) != first:
        client.set_registered_model_alias(name, ALIAS, first)
    return True


def register_champion(name: str, run: MlflowRun, model: ModelDescription) -> None:
    """Register the model of a run, and point the alias ``champion`` at it.

    MLflow's client repeats a request whose response is lost, and another worker may register the same model at the same
    time: of several versions of a model, the first one stays.
    """
    _registered_model(run.client, name)
    # MLflow's server rejects local folders outside its artifact root: the source is then the manifest among the run's
    # artifacts.
    source = model.url if "://" in model.url else f"runs:/{run.id}/model"
    run.client.create_model_version(
        name, source, run.id, description=model.reason, await_creation_for=0,
        tags={MODEL_TAG: model.key, "carclf.run": run.description.run_id, "carclf.url": model.url},
    )
    for number in _versions_of_model(run.client, name, model.key)[1:]:
        _delete_version(run.client, name, number)
    set_champion_alias(name, model.key)


def _delete_version(client: "MlflowClient", name: str, number: int) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.delete_model_version(name, str(number))
    except MlflowException as error:  # another worker may have been faster
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def _versions_of_model(client: "MlflowClient", name: str, model_key: str) -> list[int]:
    versions = client.search_model_versions(f"name = '{name}' and tags.`{MODEL_TAG}` = '{model_key}'")
    return sorted(int(version.version) for version in versions)


def _registered_model(client: "MlflowClient", name: str) -> "RegisteredModel":
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    try:
        return client.create_registered_model(name)
    except MlflowException:
        return client.get_registered_model(name)  # another worker was faster
