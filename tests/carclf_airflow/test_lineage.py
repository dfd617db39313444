"""The OpenLineage events of tasks in a real Airflow, sent to a local receiver."""

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from airflow_process import ROOT, airflow_environment, printed_json, run_python
from gate_candidates import Candidate, build_candidate
from notification_receivers import webhook_receiver
from recorded_runs import record_candidate

from carclf.demo.rendering import render_competition
from carclf.services.storage import open_store

pytestmark = [  # importing Airflow's provider here would import Airflow, with the user's settings
    pytest.mark.integration, pytest.mark.skipif(find_spec("openlineage") is None, reason="needs the extra openlineage")]

DAG = """
    from airflow.sdk import dag, task
    from carclf_airflow.lineage import emit_prediction, emit_publication, emit_reevaluation, emit_training
    from carclf_airflow.retrain_form import form_params
    from carclf_airflow.tasks import announce_champion_task, stage_task

    @task
    def predict():
        emit_prediction("s3://photos/new", "aa", {"counts": {"predicted": 3}})

    @task
    def publish():
        emit_publication({"target": "mlflow", "location": "models:/cars/3", "model": "aa"})

    @task
    def reevaluate():
        emit_reevaluation("kaggle://ada/cars", [{"model": name, "evaluation": name * 2, "value": 0.9} for name in "ab"])

    @task
    def train():
        emit_training({"run": "recorded", "state": "done"})
        emit_training({"run": "recorded", "state": "paused"})

    @dag(schedule=None, params=form_params())
    def cars():
        [predict(), publish(), reevaluate(), train()]
        stage_task("download", hours=1) >> stage_task("validate", hours=1)
        stage_task("promote", hours=1, run="recorded") >> announce_champion_task()

    cars_dag = cars()
"""
RUN = """
    import json, sys
    import cars
    cars.cars_dag.test(run_conf=json.loads(sys.argv[1]))
"""
TASKS = ("download", "validate", "promote", "announce_champion", "predict", "publish", "reevaluate", "train")
Events = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("airflow")
    render_competition(home / "photos", num_train=120, num_test=20)
    (home / "dags").mkdir()
    (home / "dags" / "cars.py").write_text(textwrap.dedent(DAG))
    return home


@pytest.fixture(scope="module")
def environment(home: Path) -> dict[str, str]:
    environment = airflow_environment(home, CARCLF_CACHE=str(home / "cache"),
                                      AIRFLOW__CORE__DAGS_FOLDER=str(home / "dags"))
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=environment, check=True, capture_output=True)
    return environment | {"PYTHONPATH": f"{ROOT}:{home / 'dags'}"}


@pytest.fixture(scope="module")
def candidate(environment: dict[str, str]) -> Candidate:
    store = open_store(environment["CARCLF_STORE"])
    candidate = build_candidate(store, "candidate", [0, 1])
    record_candidate(store, "recorded", candidate)
    return candidate


@pytest.fixture(scope="module")
def events(home: Path, environment: dict[str, str], candidate: Candidate) -> Iterator[Events]:
    """Each task's event with datasets, of a run in which all tasks succeed."""
    conf = {"recipe": "demo", "data.source": str(home / "photos"), "validation.min_images_per_class": 5,
            "validation.max_unusable_fraction": 0.2}
    with webhook_receiver() as receiver:
        settings = {"OPENLINEAGE_URL": receiver.url, "AIRFLOW__OPENLINEAGE__NAMESPACE": "cars"}
        run_python(RUN, environment | settings, json.dumps(conf))
        by_type: dict[str, Events] = {"RUNNING": {}, "COMPLETE": {}}
        for message in receiver.messages:
            by_type.setdefault(message["eventType"], {})[message["job"]["name"].removeprefix("cars.")] = message
        assert by_type["COMPLETE"].keys() >= set(TASKS)
        yield by_type["RUNNING"]


def datasets(event: dict[str, Any], kind: str) -> dict[str, tuple[str, str]]:
    """Return the type and the version of each of the inputs or outputs, by name."""
    assert {dataset["namespace"] for dataset in event[kind]} == {"file"}
    return {dataset["name"]: (dataset["facets"]["datasetType"]["datasetType"],
                              dataset["facets"].get("version", {}).get("datasetVersion", ""))
            for dataset in event[kind]}


def facts(event: dict[str, Any]) -> dict[str, Any]:
    """Return what an event states about its only output."""
    (output,) = event["outputs"]
    return {name: value for name, value in output["facets"]["carclf_result"].items() if not name.startswith("_")}


def test_each_task_has_an_event_in_the_namespace_of_the_deployment(events: Events) -> None:
    assert set(events) == set(TASKS)
    assert {event["job"]["namespace"] for event in events.values()} == {"cars"}


def test_the_source_and_the_dataset_are_connected(events: Events, home: Path) -> None:
    download, validate = events["download"], events["validate"]
    archive = {f"{home}/store/archives/download": ("FILE", facts(download)["url"].rpartition("/")[2])}
    assert datasets(download, "inputs") == {f"{home}/photos": ("FILE", "")}
    assert datasets(download, "outputs") == datasets(validate, "inputs") == archive
    (key,) = (version for _, version in datasets(validate, "outputs").values())
    dataset = facts(validate)
    assert datasets(validate, "outputs") == {f"{home}/store/datasets/validate": ("FILE", key)}
    assert (dataset["url"], dataset["reused"]) == (f"{home}/store/datasets/{key}", False)
    assert dataset["run"].startswith("manual__")
    assert (dataset["metrics"]["num_classes"], dataset["metrics"]["num_test"]) == (10, 20)


def test_the_gate_reads_the_candidate_and_its_evaluation(events: Events, home: Path, candidate: Candidate) -> None:
    store = home / "store"
    assert datasets(events["promote"], "inputs") == {
        f"{store}/archives/download": ("FILE", candidate.archive.key),
        f"{store}/splits/split": ("FILE", candidate.split.key),
        f"{store}/models/fine_tune": ("MODEL", candidate.model.key),
        f"{store}/evaluations/evaluate": ("FILE", candidate.evaluation.key)}
    decision = facts(events["promote"])
    assert (decision["run"], decision["metrics"]["decision"]) == ("recorded", "promoted")


def test_the_champion_is_a_version_of_a_model_with_the_metric_and_its_interval(
    events: Events, home: Path, candidate: Candidate
) -> None:
    announced, key = events["announce_champion"], candidate.model.key
    assert datasets(announced, "inputs") == {f"{home}/store/models/fine_tune": ("MODEL", key)}
    assert datasets(announced, "outputs") == {f"{home}/store/champion": ("MODEL", key)}
    champion = facts(announced)
    assert (champion["run"], champion["url"]) == ("recorded", f"{home}/store/models/{key}")
    low, value, high = (champion["metrics"][f"val_metric{bound}"] for bound in ("_low", "", "_high"))
    assert (champion["metrics"]["metric"], value) == ("accuracy", pytest.approx(58 / 60, abs=1e-5))
    assert 0.8 < low < value < high < 1


def test_predictions_publications_and_evaluations_follow_from_the_champion(events: Events, home: Path) -> None:
    predict, publish, reevaluate = (events[name] for name in ("predict", "publish", "reevaluate"))
    assert {(dataset["namespace"], dataset["name"]) for dataset in predict["inputs"]} == {
        ("s3://photos", "new"), ("file", f"{home}/store/champion")}
    assert datasets(predict, "outputs") == {f"{home}/store/predictions": ("FILE", "aa")}
    assert facts(predict) == {"source": "s3://photos/new", "counts": {"predicted": 3}}
    assert [(dataset["namespace"], dataset["name"]) for dataset in publish["outputs"]] == [
        ("mlflow://registry", "models:/cars/3")]
    assert {dataset["facets"].get("version", {}).get("datasetVersion") for dataset in reevaluate["inputs"]} == {
        None, "a", "b"}
    assert [dataset["facets"]["carclf_result"]["value"] for dataset in reevaluate["outputs"]] == [0.9, 0.9]


def test_a_training_of_an_experiment_reports_its_model(events: Events, home: Path, candidate: Candidate) -> None:
    assert datasets(events["train"], "outputs") == {f"{home}/store/models/fine_tune": ("MODEL", candidate.model.key)}
    assert f"{home}/store/splits/split" in datasets(events["train"], "inputs")


def test_sources_are_named_by_the_conventions(environment: dict[str, str], home: Path) -> None:
    code = """
        import json, sys
        from carclf_airflow.lineage import _source
        datasets = map(_source, json.loads(sys.argv[1]))
        print(json.dumps([[dataset.namespace, dataset.name] for dataset in datasets]))
    """
    names = {
        "demo-cars": ["kaggle://competitions", "demo-cars"], "kaggle://ada/cars/3": ["kaggle://datasets", "ada/cars"],
        "s3://photos/cars/new": ["s3://photos", "cars/new"], "s3://photos": ["s3://photos", "/"],
        "./photos": ["file", str(Path("photos").absolute())],
    }
    assert printed_json(code, environment, json.dumps(list(names))) == list(names.values())


EMIT = """
    import json, sys
    from carclf_airflow.lineage import emit_stage
    emit_stage("../invalid", {"stage": "split", "key": "k", "reused": False, "metrics": {}})
    print(json.dumps([name for name in sys.modules if name.startswith("openlineage")]))
"""


def test_without_a_receiver_openlineage_is_not_imported(environment: dict[str, str]) -> None:
    assert printed_json(EMIT, environment) == []


def test_an_error_is_a_warning(environment: dict[str, str]) -> None:
    """The stage has finished, so its task must not fail."""
    done = run_python(EMIT, environment | {"OPENLINEAGE_URL": "http://127.0.0.1:9"})
    assert "lineage: no event: ConfigError: Invalid run id" in done.stdout + done.stderr
