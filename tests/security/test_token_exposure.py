"""Kaggle's credentials: which stages get them, and where a deployment keeps them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow_process import ROOT, airflow_environment, printed_json

from carclf.stages.chain import STAGES

CREDENTIALS = ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY")
VARIABLES = ("AIRFLOW_VAR_KAGGLE_API_TOKEN", "AIRFLOW_VAR_KAGGLE_USERNAME", "AIRFLOW_VAR_KAGGLE_API_KEY")
KAGGLE_STAGES = {"download", "submit", "score"}
CODE = """
    import json, sys
    from carclf_airflow.stage_process import child_environment
    print(json.dumps({stage: child_environment(stage) for stage in json.loads(sys.argv[1])}))
"""


@pytest.mark.parametrize("names", [VARIABLES, CREDENTIALS])
def test_only_the_stages_that_call_kaggle_get_its_credentials(tmp_path: Path, names: tuple[str, ...]) -> None:
    """From Airflow's variables, as in a cluster, or from the task's environment, as on one machine."""
    planted = {name: f"planted-{credential}" for name, credential in zip(names, CREDENTIALS, strict=True)}
    environments = printed_json(CODE, airflow_environment(tmp_path) | planted, json.dumps(list(STAGES)))
    received = {stage: [name for name in CREDENTIALS if environment.get(name) == f"planted-{name}"]
                for stage, environment in environments.items()}
    assert received == {stage: list(CREDENTIALS) if stage in KAGGLE_STAGES else [] for stage in STAGES}
    assert {stage for stage in STAGES if "planted" in json.dumps(environments[stage])} == KAGGLE_STAGES


@pytest.mark.parametrize("name", ["stage", "gpu-stage"])
def test_a_pod_has_no_credentials_of_kaggle(name: str) -> None:
    assert "kaggle" not in (ROOT / f"deploy/kubernetes/pods/{name}.yaml").read_text().lower()


@pytest.mark.parametrize("component", ["apiServer", "triggerer"])
def test_a_component_without_tasks_has_the_credentials_on_kubernetes(component: str) -> None:
    values: dict[str, Any] = yaml.safe_load((ROOT / "deploy/kubernetes/values.yaml").read_text())
    sources = {variable["name"]: variable.get("valueFrom") for variable in values[component]["env"]}
    assert {sources[name]["secretKeyRef"]["name"] for name in VARIABLES} == {"carclf-kaggle"}
    assert "kaggle" not in json.dumps(values["env"]).lower()


def test_a_worker_of_compose_has_no_credentials_of_kaggle() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    texts = {name: json.dumps(service.get("environment", {})) for name, service in services.items()}
    assert {name for name, text in texts.items() if re.search(r"KAGGLE_(API|USERNAME|KEY)", text)} == {
        "api-server", "triggerer"}
    watched = {name: services["triggerer"]["environment"][name] for name in VARIABLES}
    assert all(value.startswith("${CARCLF_WATCH_SOURCE:+") for value in watched.values())
    worker = services["worker"]
    assert worker["volumes"] == ["/scratch"]
