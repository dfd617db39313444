"""No way to start a run makes a governed setting looser: form and REST call, extra keys, --set, task environment."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow_process import airflow_environment, printed_json
from policy_cases import CASES, IMPLIED_CASES, LISTS, form_value, policy_text
from typer.testing import CliRunner

from carclf.cli.app import app
from carclf.errors import ConfigError
from carclf.services.storage import Store, init_store

pytestmark = pytest.mark.integration

ALL = CASES | IMPLIED_CASES
ACCEPTED = {"recipe": "demo", "data.source": "demo-cars"}
# The schema of a text cannot express a limit of the numbers in it: the first task rejects it.
WITHOUT_SCHEMA = {"gate.min_recall_by_class", "download.extra_data"}
LISTED = {"recipe": "gpu", "data.source": "s3://other/cars", "download.extra_data": "s3://other/cars"}
EXTRA_KEYS: list[dict[str, Any]] = [
    {"gate": {"threshold": 0.1}}, {"gate.threshold ": 0.1}, {"gate.threshold=0.1": None}, {"GATE.THRESHOLD": 0.1},
    {"policy": None}, {"CARCLF_POLICY": ""}, {"settings": {"gate.threshold": 0.1}}, {"--set": "gate.threshold=0.1"},
    {"recipe\n": "demo"}, {"CARCLF_SETTINGS": "gate.threshold=0.1"},
]
# Airflow's own app with the DAGs in its database, and runs of both DAGs triggered by requests.
CODE = """
    import json, sys
    from airflow import settings
    from airflow.api_fastapi.app import create_app, get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
    from airflow.models.base import Base
    from airflow.utils.db import import_all_models, synchronize_log_template
    from fastapi.testclient import TestClient
    from carclf_airflow.stage_process import download_arguments
    import_all_models()
    Base.metadata.create_all(settings.engine)
    synchronize_log_template()  # a DAG run refers to it
    manager = DagBundlesManager()
    manager.sync_bundles_to_db()
    (bundle,) = manager.get_all_dag_bundles()
    bundle.initialize()
    sync_bag_to_db(BundleDagBag(bundle.path, bundle_path=bundle.path, bundle_name=bundle.name), bundle.name, None)
    responses = []
    with TestClient(create_app(), base_url="http://testserver") as client:
        user = SimpleAuthManagerUser(username="ada", role="admin")
        client.cookies.set("_token", get_auth_manager().generate_jwt(user))
        for dag_id, conf in json.load(open(sys.argv[1])):
            response = client.post(f"/api/v2/dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": conf})
            has_run = response.status_code == 200 and dag_id == "car_retrain"
            arguments = download_arguments({"recipe": "demo"} | response.json()["conf"]) if has_run else []
            responses.append([response.status_code, response.text[:300], arguments])
    print(json.dumps(responses))
"""


@pytest.fixture(scope="module")
def policy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "policy.toml"
    path.write_text(policy_text(f"{LISTS}[approval]\nown_runs = false\n"))
    return path


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, policy_file: Path) -> dict[str, str]:
    settings = {"AIRFLOW__API_AUTH__JWT_SECRET": "x" * 64, "CARCLF_POLICY": str(policy_file), "CARCLF_RECIPE": "demo"}
    return airflow_environment(tmp_path_factory.mktemp("airflow"), **settings)


@pytest.fixture(scope="module")
def responses(environment: dict[str, str]) -> dict[str, list[Any]]:
    """The status, the text and the arguments of the first task for each request, by its JSON."""
    requests: list[tuple[str, dict[str, Any]]] = [("car_retrain", ACCEPTED)]
    requests += [("car_retrain", ACCEPTED | {name: form_value(case.looser)}) for name, case in ALL.items()]
    requests += [("car_retrain", ACCEPTED | {name: form_value(case.allowed)}) for name, case in ALL.items()]
    requests += [("car_retrain", ACCEPTED | {name: value}) for name, value in LISTED.items()]
    requests += [("car_retrain", ACCEPTED | extra) for extra in EXTRA_KEYS]
    requests += [("car_experiments", conf) for conf in ({"recipe": "gpu"}, {"promote": True}, {})]
    path = Path(environment["AIRFLOW_HOME"]) / "requests.json"
    path.write_text(json.dumps(requests))
    printed = printed_json(CODE, environment, str(path))
    return {json.dumps(request): response for request, response in zip(requests, printed, strict=True)}


@pytest.fixture
def store(tmp_path: Path, policy_file: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("CARCLF_POLICY", str(policy_file))
    return init_store(tmp_path / "store")


def response_to(responses: dict[str, list[Any]], conf: dict[str, Any], dag_id: str = "car_retrain") -> list[Any]:
    return responses[json.dumps((dag_id, conf))]


def rejection(store: Store, arguments: list[str], **environment: str) -> str:
    """Return why ``carclf download``, the first task, fails; its exit status must be 78."""
    command = ["download", "--run", "r", "--store", store.url, *arguments]
    result = CliRunner().invoke(app, command, env=environment)
    assert isinstance(result.exception, ConfigError), result.output
    assert result.exception.exit_status == 78
    assert store.read("archives") is None
    return str(result.exception)


def test_the_first_task_of_an_allowed_run_would_start(responses: dict[str, list[Any]]) -> None:
    assert response_to(responses, ACCEPTED)[0] == 200


@pytest.mark.parametrize("name", [*ALL, *LISTED])
def test_a_looser_value_by_form_or_rest_fails_at_the_trigger_or_in_the_first_task(
    name: str, responses: dict[str, list[Any]], store: Store, policy_file: Path
) -> None:
    value = form_value(ALL[name].looser) if name in ALL else LISTED[name]
    status, text, arguments = response_to(responses, ACCEPTED | {name: value})
    if name not in WITHOUT_SCHEMA:
        assert (status, name in text or str(value) in text) == (400, True), text
        # a schema that an older DAG file left in Airflow's database must not help either
        recipe, pairs = (value, ACCEPTED) if name == "recipe" else ("demo", ACCEPTED | {name: value})
        arguments = ["--recipe", recipe, *(part for key, item in pairs.items() if key != "recipe"
                                           for part in ("--set", f"{key}={json.dumps(item)}"))]
    else:
        assert status == 200
    message = rejection(store, arguments)
    assert name in message
    assert str(policy_file) in message


@pytest.mark.parametrize("name", ALL)
def test_a_stricter_or_equal_value_is_accepted(name: str, responses: dict[str, list[Any]]) -> None:
    assert response_to(responses, ACCEPTED | {name: form_value(ALL[name].allowed)})[0] == 200


@pytest.mark.parametrize("extra", EXTRA_KEYS, ids=str)
def test_extra_keys_of_the_conf_fail_in_the_first_task(
    extra: dict[str, Any], responses: dict[str, list[Any]], store: Store
) -> None:
    status, _, arguments = response_to(responses, ACCEPTED | extra)
    assert status == 200
    assert "Unknown setting" in rejection(store, arguments)


@pytest.mark.parametrize("name", ALL)
def test_a_looser_value_by_set_or_the_task_environment_fails(name: str, store: Store, policy_file: Path) -> None:
    setting = f"{name}={form_value(ALL[name].looser)}"
    source = ["--recipe", "demo", "--set", "data.source=demo-cars"]
    by_option = rejection(store, [*source, "--set", setting])
    by_variable = rejection(store, source, CARCLF_SETTINGS=setting)
    assert by_option == by_variable
    assert name in by_option
    assert str(policy_file) in by_option


def test_a_recipe_of_the_task_environment_must_be_allowed(store: Store) -> None:
    assert "recipe = 'gpu'" in rejection(store, ["--set", "data.source=demo-cars"], CARCLF_RECIPE="gpu")


def test_a_missing_policy_stops_the_first_task_with_status_78(store: Store, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "carclf", "download", "--run", "r", "--store", store.url, "--recipe", "demo"]
    environment = {"CARCLF_POLICY": str(tmp_path / "none.toml"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert "none.toml" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("conf", [{"recipe": "gpu"}, {"gate.threshold": 0.1}, {"data.source": "s3://other/cars"}])
def test_a_run_that_was_queued_before_the_policy_fails_in_carclf_and_not_in_airflow(
    conf: dict[str, Any], environment: dict[str, str], store: Store, policy_file: Path
) -> None:
    """An error of Airflow's own check is retried; status 78 is not. The process of a task has the parsing context."""
    code = """
        import json, sys
        from airflow.sdk.definitions.param import process_params
        import car_experiments, car_retrain
        from carclf_airflow.stage_process import download_arguments
        process_params(car_experiments.car_experiments(), car_experiments.car_experiments().get_task("plan"),
                       {"recipe": "gpu"}, suppress_exception=False)
        dag = car_retrain.car_retrain()
        params = process_params(dag, dag.get_task("download"), json.loads(sys.argv[1]), suppress_exception=False)
        print(json.dumps(download_arguments(params)))
    """
    task = {"_AIRFLOW_PARSING_CONTEXT_DAG_ID": "car_retrain", "_AIRFLOW_PARSING_CONTEXT_TASK_ID": "download"}
    arguments = printed_json(code, environment | task, json.dumps(ACCEPTED | conf))
    message = rejection(store, arguments)
    assert next(iter(conf)) in message
    assert str(policy_file) in message


def test_the_form_of_an_experiment_offers_what_the_policy_allows(responses: dict[str, list[Any]]) -> None:
    statuses = [response_to(responses, conf, "car_experiments")[0] for conf in
                ({"recipe": "gpu"}, {"promote": True}, {})]
    assert statuses == [400, 200, 200]


def test_the_forms_of_other_dags_show_the_allowed_sources(environment: dict[str, str]) -> None:
    code = """
        import json, car_predict, car_reevaluate
        dags = car_predict.car_predict(), car_reevaluate.car_reevaluate()
        print(json.dumps([dag.params.get_param("source").description for dag in dags]))
    """
    hints = printed_json(code, environment)
    assert [hint.endswith("Policy: one of demo-*, s3://images/*.") for hint in hints] == [True, True]


def test_the_form_shows_the_policy_in_its_hints(environment: dict[str, str]) -> None:
    code = """
        import json
        from carclf_airflow.retrain_form import form_params
        print(json.dumps({name: [param.description, param.schema] for name, param in form_params().items()}))
    """
    fields = printed_json(code, environment)
    assert fields["gate.threshold"][0].endswith("Policy: at least 0.9.")
    assert fields["data.source"][0].endswith("Policy: one of demo-*, s3://images/*.")
    assert fields["gate.champion_rule"][1]["enum"] == [None, "not_worse", "better"]
    assert fields["submit.enabled"][1]["enum"] == [None, "off"]
    assert fields["recipe"][1]["enum"] == ["cpu", "cpu-fast", "cpu-accurate", "demo"]
    assert "Policy" not in fields["fine_tune.epochs"][0]
