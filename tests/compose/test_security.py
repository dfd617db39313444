"""Access and secrets, checked in the running containers and the images."""

import json
import os
import subprocess
from typing import Any

import pytest
import requests
from cluster import ROOT, Cluster, inside, inspect, service_of

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

CONTROL = {"init", "api-server", "scheduler", "dag-processor", "triggerer"}
# Each secret and the services that may have it.
HOLDERS = {
    "ADMIN_PASSWORD": {"api-server"},
    "FERNET_KEY": CONTROL,
    "JWT_SECRET": {"api-server", "scheduler"},
    "API_SECRET_KEY": {"api-server", "triggerer", "worker"},
    "POSTGRES_PASSWORD": CONTROL | {"postgres"},
    "REDIS_PASSWORD": {"redis", "scheduler", "worker"},
    "STORE_ACCESS_KEY": {"store", "init", "api-server", "triggerer", "worker"},
    "STORE_SECRET_KEY": {"store", "init", "api-server", "triggerer", "worker"},
    "DEMO_KEY": {"demo", "api-server"},  # as a token of Kaggle, which no worker has
    # Only in their profiles; the worker has the password only if there is an MLflow server.
    "GRAFANA_PASSWORD": set(), "MLFLOW_SECRET_KEY": set(), "MLFLOW_TRACKING_PASSWORD": set(),
}


def test_no_container_runs_a_process_as_root(cluster: Cluster) -> None:
    running = [container for container in cluster.containers() if service_of(container) != "init"]
    owners = {service_of(container): set(_top(container)) for container in running}
    assert not [service for service, uids in owners.items() if "0" in uids]
    assert inspect(cluster.containers("init")[0])["Config"]["User"] == "50000:0"
    assert set(owners) == {"postgres", "redis", "store", "demo", "worker"} | CONTROL - {"init"}


def _top(container: str) -> list[str]:
    # Use the daemon's ps (docker top): the image may lack ps.
    output = subprocess.check_output(["docker", "top", container, "-eo", "uid,pid"], text=True)
    return [line.split()[0] for line in output.splitlines()[1:]]


def test_containers_have_no_capabilities_and_a_read_only_root(cluster: Cluster) -> None:
    configs = {service_of(container): inspect(container)["HostConfig"] for container in cluster.containers()}
    limits = {service: (host["CapDrop"], host["SecurityOpt"], host["Privileged"], host["Init"])
              for service, host in configs.items()}
    assert limits == dict.fromkeys(configs, (["ALL"], ["no-new-privileges:true"], False, True))
    assert {service for service, host in configs.items() if not host["ReadonlyRootfs"]} == {"store"}
    assert not [service for service, host in configs.items() if not host["Memory"] or not host["PidsLimit"]]


def test_only_the_ui_is_published_and_only_on_loopback(cluster: Cluster) -> None:
    published = {service_of(container): ports for container in cluster.containers()
                 if (ports := inspect(container)["HostConfig"]["PortBindings"])}
    assert published == {"api-server": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(cluster.port)}]}}


@pytest.mark.parametrize("path", ["dags", "dags/car_retrain/dagRuns", "connections", "variables", "eventLogs"])
def test_the_api_requires_a_login(cluster: Cluster, path: str) -> None:
    url = f"{cluster.url}/api/v2/{path}"
    attempts = ({}, {"Authorization": "Bearer nonsense"}, {"Cookie": "_token=nonsense"})
    assert [requests.get(url, headers=headers, timeout=30).status_code for headers in attempts] == [401, 403, 403]


@pytest.mark.parametrize(("method", "path", "body", "status"), [
    ("POST", "/api/v2/dags/car_retrain/dagRuns", {"logical_date": None}, 401),
    ("PATCH", "/api/v2/dags/car_retrain", {"is_paused": True}, 401),
    ("POST", "/auth/token", {"username": "admin", "password": "admin"}, 401),
    ("POST", "/auth/token", {"username": "admin", "password": ""}, 400),
    ("PATCH", "/execution/task-instances/01a21128-2c74-7777-8370-eca19655a0f3/run", {}, 401),
    ("GET", "/execution/variables/any", None, 401),
    ("GET", "/ui/dags", None, 401),
])
def test_nothing_can_be_read_or_changed_without_a_token(
    cluster: Cluster, method: str, path: str, body: Any, status: int
) -> None:
    assert requests.request(method, f"{cluster.url}{path}", json=body, timeout=30).status_code == status


REACH = """
import socket, sys
for name in sys.argv[1:]:
    host, port = name.split(":")
    try:
        socket.create_connection((host, int(port)), 3).close()
        print(name, "connected")
    except OSError as error:
        print(name, "failed")
"""


def test_a_worker_reaches_broker_store_and_api_but_not_the_database(cluster: Cluster) -> None:
    database = inspect(cluster.containers("postgres")[0])["NetworkSettings"]["Networks"]
    address = database[f"{cluster.project}_backend"]["IPAddress"]
    names = ["redis:6379", "store:8333", "api-server:8080", "postgres:5432", f"{address}:5432"]
    output = inside(cluster.containers("worker")[0], "python", "-c", REACH, *names)
    expected = [f"{name} connected" for name in names[:3]] + [f"{name} failed" for name in names[3:]]
    assert output.splitlines() == expected


def test_the_broker_requires_its_password(cluster: Cluster) -> None:
    ping = "import redis; redis.Redis('redis', socket_timeout=5, protocol=2).ping()"
    command = ["docker", "exec", cluster.containers("worker")[0], "python", "-c", ping]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "redis.exceptions.AuthenticationError: Authentication required."


def test_each_service_gets_only_the_secrets_that_it_needs(cluster: Cluster) -> None:
    details = {container: json.dumps(inspect(container)) for container in cluster.containers()}
    holders = {name: {service_of(container) for container, text in details.items() if value in text}
               for name, value in cluster.secrets.items()}
    assert holders == HOLDERS


def test_no_secret_is_in_a_process_list(cluster: Cluster) -> None:
    processes = "".join(subprocess.check_output(["docker", "top", container, "-eo", "pid,args"], text=True)
                        for container in cluster.containers() if service_of(container) != "init")
    assert "redis-server" in processes
    assert "airflow" in processes
    assert not [name for name, value in cluster.secrets.items() if value in processes]


def test_a_stage_gets_none_of_airflows_secrets(cluster: Cluster, finished_run: str) -> None:
    child = "^/opt/venv/bin/python -u -m carclf fine_tune"
    read = f"for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline | grep -q '{child}' && cat $p/environ; done"
    with cluster.running(seed=21, **{"fine_tune.epochs": 60}) as (_, task):
        worker = cluster.worker_container(task)
        environment = cluster.wait(lambda: inside(worker, "sh", "-c", read, check=False), 60, "the stage runs")
    names = {pair.partition("=")[0] for pair in environment.split("\0") if "=" in pair}
    assert {"CARCLF_STORE", "AWS_SECRET_ACCESS_KEY", "PATH"} <= names
    assert not [name for name in names if name.startswith(("AIRFLOW", "KAGGLE", "CARCLF_KAGGLE", "REDIS"))]
    hidden = {name: value for name, value in cluster.secrets.items() if not name.startswith("STORE")}
    assert not [name for name, value in hidden.items() if value in environment]


def test_no_secret_is_in_a_log(cluster: Cluster, finished_run: str) -> None:
    lines = cluster.compose("logs", "--no-color") + "\n".join(
        line for task in ("download", "fine_tune", "submit") for line in cluster.log(finished_run, task))
    assert "car_retrain" in lines
    assert not [name for name, value in cluster.secrets.items() if value in lines]


@pytest.mark.parametrize("image", ["carclf-airflow:latest", "carclf-worker-cpu"])
def test_no_secret_is_in_an_image(cluster: Cluster, image: str) -> None:
    details = subprocess.check_output(["docker", "image", "inspect", image], text=True)
    details += subprocess.check_output(["docker", "history", "--no-trunc", image], text=True)
    assert not [name for name, value in cluster.secrets.items() if value in details]
    patterns = cluster.env_file.with_name("patterns")
    patterns.write_text("".join(f"{value}\n" for value in cluster.secrets.values()))
    # Every layer, because a later layer may hide a file of an earlier one.
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saved:
        grep = subprocess.run(["grep", "-acF", "-f", str(patterns)], stdin=saved.stdout, capture_output=True, text=True,
                              check=False)
    assert grep.stdout == "0\n"


def test_the_builder_gets_only_what_an_image_needs() -> None:
    listed = subprocess.check_output(
        ["docker", "run", "--rm", "--network", "none", "carclf-airflow:latest", "ls", "-A", "/opt/carclf"], text=True)
    assert set(listed.split()) <= {
        "LICENSE", "README.md", "carclf", "carclf_airflow", "dags", "docker", "pyproject.toml", "requirements"}
    assert (ROOT / "docker/Dockerfile.dockerignore").read_text().splitlines()[1] == "*"


def test_nothing_starts_without_its_secrets(cluster: Cluster) -> None:
    command = ["docker", "compose", "--env-file", "/dev/null", "-p", "carclf-none", "config"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False,
                          env={"PATH": os.environ["PATH"]})
    assert done.returncode != 0
    assert "run make secrets" in done.stderr
