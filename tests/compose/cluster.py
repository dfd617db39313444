"""The real Compose file with stand-ins for what comes from a registry; its REST API, its store, its containers."""

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
    """A context manager: what it started is gone when it ends, its volumes too."""

    def __init__(self, folder: Path, *, num_workers: int = 2, **settings: str) -> None:
        self.project = f"carclf-test-{os.getpid()}"  # several may run on one machine
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
        """Run ``docker compose`` on this cluster; its standard output."""
        files = [part for name in FILES for part in ("-f", name)]
        command = ["docker", "compose", "--progress", "quiet", "-p", self.project, "--env-file", str(self.env_file)]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KAGGLE", "AWS", "CARCLF"))}
        return _run([*command, *files, *arguments], env=kept | self.settings, check=check)

    def __enter__(self) -> "Cluster":
        try:
            self._timed("build", lambda: self.compose("build", "-q"))
            self.compose("down", "-v", "-t", "5")
            self._timed("healthy", lambda: self.compose("up", "-d", "--wait", "--wait-timeout", "600"))
            self.log_in()
            known = lambda: DAG in [dag["dag_id"] for dag in self.call("GET", "dags")["dags"]]  # noqa: E731
            self.wait(known, 120, "the DAG is there")
            self.call("PATCH", f"dags/{DAG}", {"is_paused": False})
        except BaseException:
            print(self.compose("ps", "-a", check=False), self.compose("logs", "--tail", "40", check=False))
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.record_volumes()
        self.compose("down", "-v", "-t", "5", "--remove-orphans", check=False)
        left = self.volumes & set(_run(["docker", "volume", "ls", "-q"]).split())
        if left:
            _run(["docker", "volume", "rm", *left])

    def record_volumes(self) -> None:
        """Remember the containers' own volumes: Compose forgets those of a container that it replaces."""
        mounts = [mount for found in self.containers() for mount in inspect(found)["Mounts"]]
        self.volumes |= {mount["Name"] for mount in mounts if mount["Type"] == "volume"}

    def _timed(self, name: str, call: Callable[[], object]) -> None:
        started = time.monotonic()
        call()
        self.seconds[name] = time.monotonic() - started

    def log_in(self) -> None:
        """Take a token for the administrator."""
        body = {"username": "admin", "password": self.secrets["ADMIN_PASSWORD"]}
        answer = self.session.post(f"{self.url}/auth/token", json=body, timeout=60)
        answer.raise_for_status()
        self.session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One call of Airflow's REST API; an error of HTTP raises with its text."""
        answer = self.session.request(method, f"{self.url}/api/v2/{path}", json=body, timeout=60)
        if answer.status_code >= 400:
            raise AssertionError(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer.json()

    def wait(self, condition: Callable[[], Any], seconds: float, what: str) -> Any:
        """The condition's first true value; a faulty answer meanwhile counts as not yet."""
        limit, last = time.monotonic() + seconds, None
        while time.monotonic() < limit:
            try:
                if found := condition():
                    return found
            except (requests.RequestException, AssertionError) as error:  # what answers may be the part that is away
                last = error
            time.sleep(1)
        raise AssertionError(f"Within {seconds:.0f} s it was not so that {what} ({last})")

    def trigger(self, **conf: Any) -> str:
        """Start a run; ``seed=3`` or ``**{"fine_tune.epochs": 30}`` are fields of the form. Return its id."""
        return str(self.call("POST", f"dags/{DAG}/dagRuns", {"logical_date": None, "conf": conf})["dag_run_id"])

    @contextmanager
    def running(self, **conf: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """A run whose fine-tuning goes on, and that task instance; the run is ended in any case."""
        run_id = self.trigger(**conf)
        try:
            yield run_id, self.wait_for_task(run_id, "fine_tune", {"running", *ENDED})
        finally:
            self.call("PATCH", f"dags/{DAG}/dagRuns/{run_id}", {"state": "failed"})

    def tasks(self, run_id: str) -> dict[str, dict[str, Any]]:
        """The run's task instances by name."""
        found = self.call("GET", f"dags/{DAG}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return {task["task_id"]: task for task in found}

    def wait_for_task(self, run_id: str, task: str, states: set[str], seconds: float = 300) -> dict[str, Any]:
        """The task instance, as soon as it is in one of these states."""

        def there() -> dict[str, Any] | None:
            found = self.tasks(run_id)[task]
            return found if found["state"] in states else None

        found: dict[str, Any] = self.wait(there, seconds, f"{task} of {run_id} is {' or '.join(sorted(states))}")
        return found

    def finish(self, run_id: str, seconds: float = 900) -> str:
        """Wait for the run's end; its state."""

        def ended() -> str:
            state = str(self.call("GET", f"dags/{DAG}/dagRuns/{run_id}")["state"])
            return state if state in FINISHED else ""

        return str(self.wait(ended, seconds, f"{run_id} has ended"))

    def result(self, run_id: str, task: str) -> Any:
        """What the task returned, with its metrics."""
        path = f"dags/{DAG}/dagRuns/{run_id}/taskInstances/{task}/xcomEntries/return_value?deserialize=true"
        return self.call("GET", path)["value"]

    def log(self, run_id: str, task: str, attempt: int = 1) -> list[str]:
        """The lines of a task's log, as the UI gets them."""
        path = f"dags/{DAG}/dagRuns/{run_id}/taskInstances/{task}/logs/{attempt}"
        answer = self.session.get(f"{self.url}/api/v2/{path}", headers={"Accept": "application/json"}, timeout=60)
        answer.raise_for_status()
        return [str(line["event"]) if isinstance(line, dict) else str(line) for line in answer.json()["content"]]

    def containers(self, service: str = "") -> list[str]:
        """The ids of the service's containers, or of all; a one-shot container that ended counts too."""
        return self.compose("ps", "-aq", *([service] if service else [])).split()

    def worker_container(self, task: dict[str, Any]) -> str:
        """The id of the container in which a task instance runs or ran."""
        return next(found for found in self.containers("worker") if found.startswith(task["hostname"]))

    def store(self, prefix: str = "store") -> S3Store:
        """The cluster's store, looked at from here; the caller's environment gets what leads to it."""
        network = inspect(self.containers("store")[0])["NetworkSettings"]["Networks"][f"{self.project}_work"]
        os.environ |= {
            "AWS_ENDPOINT_URL_S3": f"http://{network['IPAddress']}:8333", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": self.secrets["STORE_ACCESS_KEY"],
            "AWS_SECRET_ACCESS_KEY": self.secrets["STORE_SECRET_KEY"],
        }
        return S3Store(f"s3://carclf/{prefix}")


def inspect(container: str) -> dict[str, Any]:
    """What ``docker inspect`` tells of a container."""
    found: dict[str, Any] = json.loads(_run(["docker", "inspect", container]))[0]
    return found


def service_of(container: str) -> str:
    """The service's name of a container."""
    return str(inspect(container)["Config"]["Labels"]["com.docker.compose.service"])


def inside(container: str, *command: str, check: bool = True) -> str:
    """Run a command in a container as its own user; its output."""
    return _run(["docker", "exec", container, *command], check=check)


def _run(command: list[str], *, env: dict[str, str] | None = None, check: bool = True) -> str:
    ran = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if check and ran.returncode:
        raise AssertionError(f"{' '.join(command)} ended with {ran.returncode}:\n{(ran.stdout + ran.stderr)[-4000:]}")
    return ran.stdout


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
