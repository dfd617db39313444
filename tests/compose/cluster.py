"""The real Compose file with stand-ins for the registry's images; its REST API, store and containers."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from carclf.services.storage import S3Store

ROOT = Path(__file__).resolve().parent.parent.parent
FILES = ("docker-compose.yml", "docker/demo.yml", "tests/compose/fakes.yml")
DAG = "car_retrain"
FINISHED = ("success", "failed")
ENDED = {"success", "failed", "skipped", "upstream_failed", "removed"}


class Cluster:
    """A context manager that removes its containers and volumes on exit."""

    def __init__(self, folder: Path, *, num_workers: int = 2, **settings: str) -> None:
        self.project = f"carclf-test-{os.getpid()}"  # several clusters may run on one machine
        self.env_file = folder / "cluster.env"
        subprocess.run([sys.executable, str(ROOT / "docker/generate_secrets.py"), str(self.env_file)], check=True)
        self.secrets = dict(line.split("=", 1) for line in self.env_file.read_text().splitlines())
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = {"WORKERS": str(num_workers), "UI_PORT": str(self.port), "WORKER_MEMORY": "4g", **settings}
        self.session = requests.Session()
        self.session.trust_env = False
        self.seconds: dict[str, float] = {}
        self.volumes: set[str] = set()

    def compose(self, *arguments: str, check: bool = True) -> str:
        """Run ``docker compose`` on this cluster and return its standard output."""
        files = [part for name in FILES for part in ("-f", name)]
        command = ["docker", "compose", "--progress", "quiet", "-p", self.project, "--env-file", str(self.env_file)]
        return _run([*command, *files, *arguments], env=caller_environment() | self.settings, check=check)

    def __enter__(self) -> "Cluster":
        try:
            self._timed("build", lambda: self.compose("build", "-q"))
            self.compose("down", "-v", "-t", "5")
            self._timed("healthy", lambda: self.compose("up", "-d", "--wait", "--wait-timeout", "600"))
            self.log_in()
            self.wait(self._has_dag, 120, "the DAG appears")
            self.call("PATCH", f"dags/{DAG}", {"is_paused": False})
        except BaseException:
            print(self.compose("ps", "-a", check=False), self.compose("logs", "--tail", "40", check=False))
            self.__exit__()
            raise
        return self

    def _has_dag(self) -> bool:
        return DAG in [dag["dag_id"] for dag in self.call("GET", "dags")["dags"]]

    def __exit__(self, *_: object) -> None:
        self.record_volumes()
        self.compose("down", "-v", "-t", "5", "--remove-orphans", check=False)
        left = self.volumes & set(_run(["docker", "volume", "ls", "-q"]).split())
        if left:
            _run(["docker", "volume", "rm", *left])

    def record_volumes(self) -> None:
        """Record the containers' anonymous volumes: Compose forgets those of a container that it replaces."""
        mounts = [mount for container in self.containers() for mount in inspect(container)["Mounts"]]
        self.volumes |= {mount["Name"] for mount in mounts if mount["Type"] == "volume"}

    def _timed(self, name: str, call: Callable[[], object]) -> None:
        started = time.monotonic()
        call()
        self.seconds[name] = time.monotonic() - started

    def log_in(self) -> None:
        """Log in as the administrator."""
        body = {"username": "admin", "password": self.secrets["ADMIN_PASSWORD"]}
        response = self.session.post(f"{self.url}/auth/token", json=body, timeout=60)
        response.raise_for_status()
        self.session.headers["Authorization"] = f"Bearer {response.json()['access_token']}"

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Call Airflow's REST API and return its JSON; an HTTP error raises AssertionError with its text."""
        response = self.session.request(method, f"{self.url}/api/v2/{path}", json=body, timeout=60)
        if not response.ok:
            raise AssertionError(f"{method} {path}: {response.status_code} {response.text[:500]}")
        return response.json()

    def wait(self, condition: Callable[[], Any], seconds: float, what: str) -> Any:
        """Return the condition's first true value; an error of the API counts as false."""
        limit, last = time.monotonic() + seconds, None
        while time.monotonic() < limit:
            try:
                if value := condition():
                    return value
            except (requests.RequestException, AssertionError) as error:  # the api-server may be the faulty component
                last = error
            time.sleep(1)
        raise AssertionError(f"Time-out after {seconds:.0f} s: expected that {what} ({last})")

    def trigger(self, **conf: Any) -> str:
        """Start a run with these values of the form and return its id."""
        return str(self.call("POST", f"dags/{DAG}/dagRuns", {"logical_date": None, "conf": conf})["dag_run_id"])

    @contextmanager
    def running(self, **conf: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield a run that is fine-tuning, and that task instance; the run is ended in any case."""
        run_id = self.trigger(**conf)
        try:
            yield run_id, self.wait_for_task(run_id, "fine_tune", {"running", *ENDED})
        finally:
            self.call("PATCH", f"dags/{DAG}/dagRuns/{run_id}", {"state": "failed"})

    def tasks(self, run_id: str) -> dict[str, dict[str, Any]]:
        """Return the run's task instances by name."""
        instances = self.call("GET", f"dags/{DAG}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return {task["task_id"]: task for task in instances}

    def wait_for_task(self, run_id: str, task: str, states: set[str], seconds: float = 300) -> dict[str, Any]:
        """Return the task instance as soon as it is in one of these states."""

        def instance_in_state() -> dict[str, Any] | None:
            instance = self.tasks(run_id)[task]
            return instance if instance["state"] in states else None

        goal = f"{task} of {run_id} is {' or '.join(sorted(states))}"
        instance: dict[str, Any] = self.wait(instance_in_state, seconds, goal)
        return instance

    def finish(self, run_id: str, seconds: float = 900) -> str:
        """Wait for the run's end and return its state."""

        def final_state() -> str:
            state = str(self.call("GET", f"dags/{DAG}/dagRuns/{run_id}")["state"])
            return state if state in FINISHED else ""

        return str(self.wait(final_state, seconds, f"{run_id} has ended"))

    def result(self, run_id: str, task: str) -> Any:
        """Return what the task returned."""
        path = f"dags/{DAG}/dagRuns/{run_id}/taskInstances/{task}/xcomEntries/return_value?deserialize=true"
        return self.call("GET", path)["value"]

    def log(self, run_id: str, task: str, attempt: int = 1) -> list[str]:
        """Return the lines of a task's log as the UI gets them."""
        path = f"dags/{DAG}/dagRuns/{run_id}/taskInstances/{task}/logs/{attempt}"
        headers = {"Accept": "application/json"}
        response = self.session.get(f"{self.url}/api/v2/{path}", headers=headers, timeout=60)
        response.raise_for_status()
        return [str(line["event"]) if isinstance(line, dict) else str(line) for line in response.json()["content"]]

    def containers(self, service: str = "") -> list[str]:
        """Return the ids of the service's containers, or of all, including those that have exited."""
        return self.compose("ps", "-aq", *([service] if service else [])).split()

    def worker_container(self, task: dict[str, Any]) -> str:
        """Return the id of the container in which a task instance runs or ran."""
        return next(worker for worker in self.containers("worker") if worker.startswith(task["hostname"]))

    def store(self, prefix: str = "store") -> S3Store:
        """Return the cluster's store, and set the environment variables for it in this process."""
        network = inspect(self.containers("store")[0])["NetworkSettings"]["Networks"][f"{self.project}_work"]
        os.environ |= {
            "AWS_ENDPOINT_URL_S3": f"http://{network['IPAddress']}:8333", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": self.secrets["STORE_ACCESS_KEY"],
            "AWS_SECRET_ACCESS_KEY": self.secrets["STORE_SECRET_KEY"],
        }
        return S3Store(f"s3://carclf/{prefix}")


def caller_environment() -> dict[str, str]:
    """Return this process's environment without settings that would change the cluster."""
    prefixes = ("KAGGLE", "AWS", "CARCLF")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


def inspect(container: str) -> dict[str, Any]:
    """Return the output of ``docker inspect`` for a container."""
    details: dict[str, Any] = json.loads(_run(["docker", "inspect", container]))[0]
    return details


def service_of(container: str) -> str:
    """Return the name of a container's service."""
    return str(inspect(container)["Config"]["Labels"]["com.docker.compose.service"])


def inside(container: str, *command: str, check: bool = True) -> str:
    """Run a command in a container as the container's user and return its output."""
    return _run(["docker", "exec", container, *command], check=check)


def _run(command: list[str], *, env: dict[str, str] | None = None, check: bool = True) -> str:
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} failed ({done.returncode}):\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
