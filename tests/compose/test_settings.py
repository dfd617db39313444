"""Settings in .env and their effect on the stack, as Compose reads them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cluster import ROOT

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]


def read(folder: Path, *lines: str) -> dict[str, Any]:
    """Return the services of all profiles with these lines in .env."""
    path = folder / "settings.env"
    path.write_text("".join(f"{line}\n" for line in lines))
    subprocess.run([sys.executable, ROOT / "docker/generate_secrets.py", path], check=True, capture_output=True)
    command = ["docker", "compose", "--env-file", str(path), "--profile", "*", "config", "--format", "json"]
    output = subprocess.check_output(command, cwd=ROOT, env={"PATH": os.environ["PATH"]})
    services: dict[str, Any] = json.loads(output)["services"]
    return services


@pytest.mark.parametrize(("line", "address"), [
    ("UI_PORT=8081", "http://localhost:8081"), ("BASE_URL=https://cars.example", "https://cars.example"),
])
def test_airflow_gets_the_url_of_its_ui(tmp_path: Path, line: str, address: str) -> None:
    services = read(tmp_path, line)
    assert {services[name]["environment"]["AIRFLOW__API__BASE_URL"] for name in ("api-server", "worker")} == {address}


def test_only_the_api_server_has_kaggles_credentials_unless_the_source_is_watched(tmp_path: Path) -> None:
    credentials = {"KAGGLE_API_TOKEN": "planted-token", "KAGGLE_USERNAME": "planted-user", "KAGGLE_KEY": "planted-key"}
    lines = [f"{name}={value}" for name, value in credentials.items()]
    for watch, holders in (("", {"api-server"}), ("true", {"api-server", "triggerer"})):
        services = read(tmp_path, *lines, f"CARCLF_WATCH_SOURCE={watch}")
        assert {name for name, service in services.items() if "planted-" in json.dumps(service)} == holders
    environment = services["api-server"]["environment"]
    names = ("AIRFLOW_VAR_KAGGLE_API_TOKEN", "AIRFLOW_VAR_KAGGLE_USERNAME", "AIRFLOW_VAR_KAGGLE_API_KEY")
    assert [environment[name] for name in names] == list(credentials.values())


def test_no_image_name_has_a_registry(tmp_path: Path) -> None:
    images = [service["image"] for service in read(tmp_path).values()]
    assert any(image.startswith("mlflow:") for image in images)
    assert not [image for image in images if re.match(r"[^/]*[.:][^/]*/", image)]


def test_the_stack_with_the_documented_gpu_file_has_a_gpu(tmp_path: Path) -> None:
    text = (ROOT / "docs/cluster.md").read_text()
    files = re.findall(r"COMPOSE_FILE=(\S+gpu\.yml)", text)
    assert files
    for name in files:
        device = read(tmp_path, f"COMPOSE_FILE={name}")["worker"]["deploy"]["resources"]["reservations"]["devices"][0]
        assert (device["driver"], device["device_ids"]) == ("nvidia", ["0"])


def test_all_components_read_the_same_policy(tmp_path: Path) -> None:
    services = read(tmp_path, "COMPOSE_FILE=docker-compose.yml:docker/policy.yml")
    for name in ("api-server", "scheduler", "dag-processor", "triggerer", "worker"):
        path = services[name]["environment"]["CARCLF_POLICY"]
        (volume,) = [volume for volume in services[name]["volumes"] if volume["target"] == path]
        assert (volume["source"], volume["read_only"]) == (str(ROOT / "policy.toml"), True)
