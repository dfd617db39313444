"""OpenLineage events with the artifacts of each stage, if Airflow's OpenLineage provider is installed and configured.

The provider reports the start and the end of every task. Of the assets, it converts only those whose URI has a scheme
that it supports, and without their metadata. So each stage adds an event to its task. An artifact's dataset is named
after its folder and its stage, and its key is the version.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from carclf.artifacts import Classifier
from carclf.config.sources import parse_source
from carclf.runs.record import read_record
from carclf.services.storage import Store, open_store
from carclf.stages.chain import STAGES

log = logging.getLogger("airflow.task")

P = ParamSpec("P")
FACET = "carclf_result"
NO_FACTS: Mapping[str, Any] = {}


def _if_enabled(emit: Callable[P, None]) -> Callable[P, None]:
    """Emit only if the provider has a receiver; log an error as a warning, since the task has done its work."""

    @wraps(emit)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            from airflow.providers.openlineage.conf import is_disabled  # Airflow has imported it with its plugins
        except ImportError:
            return
        if is_disabled():
            return
        try:
            emit(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 (of any package: the task must not fail)
            log.warning("lineage: no event: %s: %s", type(error).__name__, error)

    return wrapper


@_if_enabled
def emit_stage(run: str, result: Mapping[str, Any]) -> None:
    """Emit the artifacts that a finished stage of a run has read, and its own with the run and the metrics."""
    store, stage, key = open_store(os.environ.get("CARCLF_STORE", "store")), result["stage"], result["key"]
    url = f"{store.url}/{STAGES[stage].artifact.folder}/{key}"
    facts = {"run": run, "url": url, "reused": result["reused"], "metrics": result["metrics"]}
    _emit(_inputs(store, run, stage), _artifact(store, stage, key, facts))


@_if_enabled
def emit_champion(event: Mapping[str, Any]) -> None:
    """Emit the model of an event of the asset car_champion as the new version of the store's champion."""
    store, refit = open_store(event["store"]), event["refit"]
    model = _artifact(store, "refit", refit) if refit else _artifact(store, "fine_tune", event["model"])
    facts = {"run": event["run"], "url": event["model_url"], "metrics": dict(event)}
    _emit([model], _dataset(f"{store.url}/champion", "MODEL", refit or event["model"], facts))


@_if_enabled
def emit_training(report: Mapping[str, Any]) -> None:
    """Emit the model of a finished run of an experiment, and what it was trained on."""
    store, run = open_store(os.environ.get("CARCLF_STORE", "store")), report["run"]
    record = read_record(store, run)
    if report["state"] == "done" and record:
        trained = record["stages"]["fine_tune"]
        facts = {"run": run, "url": f"{store.url}/models/{trained['key']}", "metrics": trained["metrics"]}
        _emit(_inputs(store, run, "fine_tune"), _artifact(store, "fine_tune", trained["key"], facts))


@_if_enabled
def emit_prediction(source: str, model: str, facts: Mapping[str, Any]) -> None:
    """Emit the store's predictions of a model for the images of a source."""
    store = os.environ.get("CARCLF_STORE", "store")
    inputs = [_source(source), _champion(model)]
    _emit(inputs, _dataset(f"{open_store(store).url}/predictions", "FILE", model, {"source": source} | dict(facts)))


@_if_enabled
def emit_reevaluation(source: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Emit the evaluations of past champions on the images of a source."""
    store = open_store(os.environ.get("CARCLF_STORE", "store"))
    url = f"{store.url}/evaluations/reevaluate"
    outputs = [_dataset(url, "FILE", row["evaluation"], {"source": source} | dict(row)) for row in rows]
    _emit([_source(source), *(_champion(row["model"]) for row in rows)], *outputs)


@_if_enabled
def emit_publication(published: Mapping[str, Any]) -> None:
    """Emit the published copy of the champion."""
    location, model = published["location"], published["model"]
    url = location if published["target"] != "mlflow" else f"mlflow://registry/{location}"
    _emit([_champion(model)], _dataset(url, "MODEL", model, {"target": published["target"]}))


def _champion(model: str) -> Any:
    store = open_store(os.environ.get("CARCLF_STORE", "store"))
    return _dataset(f"{store.url}/champion", "MODEL", model)


def _inputs(store: Store, run: str, stage: str) -> list[Any]:
    record = read_record(store, run)
    assert record is not None  # the stage has just written its result to the record
    if stage == "download":
        return [_source(record["config"]["data"]["source"])]
    keys = {name: finished["key"] for name, finished in record["stages"].items()}
    return [_artifact(store, name, keys[name]) for name in STAGES[stage].inputs if keys.get(name)]


def _source(text: str) -> Any:
    source = parse_source(text)
    is_kaggle = source.kind in ("competition", "dataset")
    return _dataset(f"kaggle://{source.kind}s/{source.name}" if is_kaggle else source.name, "FILE")


def _artifact(store: Store, stage: str, key: str, facts: Mapping[str, Any] = NO_FACTS) -> Any:
    kind = STAGES[stage].artifact
    dataset_type = "MODEL" if issubclass(kind, Classifier) else "FILE"
    return _dataset(f"{store.url}/{kind.folder}/{stage}", dataset_type, key, facts)


def _dataset(url: str, dataset_type: str, version: str = "", facts: Mapping[str, Any] = NO_FACTS) -> Any:
    """Return a dataset of OpenLineage for a path or URL, named by OpenLineage's conventions."""
    from openlineage.client.event_v2 import Dataset
    from openlineage.client.facet_v2 import DatasetFacet, dataset_type_dataset, dataset_version_dataset

    facets: dict[str, Any] = {"datasetType": dataset_type_dataset.DatasetTypeDatasetFacet(dataset_type)}
    if version:
        facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(version)
    if facts:
        facets[FACET] = DatasetFacet().with_additional_properties(**facts)
    scheme, _, path = url.rpartition("://")
    if not scheme:
        return Dataset("file", str(Path(url).absolute()), facets=facets)
    authority, _, name = path.partition("/")
    return Dataset(f"{scheme}://{authority}", name or "/", facets=facets)


def _emit(inputs: list[Any], *outputs: Any) -> None:
    from airflow.providers.openlineage.api import emit_dataset_lineage

    emit_dataset_lineage(inputs=inputs, outputs=list(outputs))
