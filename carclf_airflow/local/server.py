"""Airflow's settings and processes on one machine: SQLite, LocalExecutor, loopback only, a generated password."""

import base64
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import requests

from carclf.errors import ConfigError
from carclf_airflow.local.processes import ProcessGroup

HEALTHY_SECONDS = 180.0
LOCKED_SECONDS = 60  # that a part waits for the database, which others lock for long on a busy disk; else it ends
NUM_WORKERS = 4  # tasks at once
REPOSITORY_ROOT = Path(__file__).resolve().parents[2]


class AirflowError(Exception):
    """Airflow did not start or answer; the message says where its log is."""


def _wanted_port() -> int:
    text = os.environ.get("CARCLF_PORT") or "8080"
    if not text.isdecimal() or int(text) > 65535:
        raise ConfigError(f"CARCLF_PORT={text} is no port. Give a number up to 65535, or 0 for any that is free.")
    return int(text)


def free_port(wanted: int) -> int:
    """The wanted port if it is free on loopback, else any free one."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            # connections of a server that has just ended keep its port from others, but not from its like
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise AirflowError("No port is free on 127.0.0.1.")


def load_secrets(home: Path) -> dict[str, str]:
    """Keys and the admin's password, generated once and kept with mode 600."""
    path = home / "secrets.json"
    if not path.exists():
        home.mkdir(parents=True, exist_ok=True)
        made = {
            "fernet": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(), "api": secrets.token_hex(32),
            "jwt": secrets.token_hex(32), "admin": secrets.token_urlsafe(12),
        }
        _write_private(path, json.dumps(made))
    found: dict[str, str] = json.loads(path.read_text())
    _write_private(home / "passwords.json", json.dumps({"admin": found["admin"]}))
    return found


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def airflow_environment(home: Path, port: int, num_workers: int) -> dict[str, str]:
    """The environment that makes Airflow a small, private one."""
    keys = load_secrets(home)
    options = {
        "core__dags_folder": str(REPOSITORY_ROOT / "dags"), "core__plugins_folder": str(REPOSITORY_ROOT / "plugins"),
        "api__instance_name": "Car classifier", "core__load_examples": "False", "core__executor": "LocalExecutor",
        "core__parallelism": str(num_workers), "core__fernet_key": keys["fernet"],
        "core__simple_auth_manager_users": "admin:admin",
        "core__simple_auth_manager_passwords_file": str(home / "passwords.json"),
        "core__execution_api_server_url": f"http://127.0.0.1:{port}/execution/",
        "database__sql_alchemy_conn": f"sqlite:///{home / 'airflow.db'}?timeout={LOCKED_SECONDS}",
        "api__host": "127.0.0.1", "api__port": str(port), "api__base_url": f"http://127.0.0.1:{port}",
        "api__secret_key": keys["api"], "api_auth__jwt_secret": keys["jwt"], "api__workers": "1",
        "logging__base_log_folder": str(home / "logs"),
        "workers__min_heartbeat_interval": "1", "scheduler__scheduler_idle_sleep_time": "0.2",
        "dag_processor__refresh_interval": "60", "usage_data_collection__enabled": "False",
    }
    return {f"AIRFLOW__{name.upper()}": value for name, value in options.items()} | {
        "AIRFLOW_HOME": str(home), "PYTHONWARNINGS": "ignore", "NO_PROXY": "127.0.0.1,localhost",
    }


class Airflow:
    """A running Airflow and its REST API."""

    def __init__(
        self, home: Path, processes: ProcessGroup, environment: dict[str, str], *, num_workers: int = NUM_WORKERS
    ) -> None:
        self.home, self.processes = home, processes
        self.port = free_port(_wanted_port())
        self.url = f"http://127.0.0.1:{self.port}"
        path = f"{Path(sys.executable).parent}:{environment.get('PATH', os.defpath)}"
        self.environment = environment | airflow_environment(home, self.port, num_workers) | {"PATH": path}
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy stands before loopback

    def start(self) -> None:
        """Make the database, start the parts, and wait until all are healthy."""
        command = [sys.executable, "-m", "airflow"]
        made = subprocess.run([*command, "db", "migrate"], env=self.environment, capture_output=True, text=True)
        if made.returncode:
            raise AirflowError(f"airflow db migrate failed:\n{(made.stdout + made.stderr)[-2000:]}")
        # Airflow's log server listens on every address; here the logs are read from the folder.
        for name, *options in (("api-server",), ("dag-processor",), ("scheduler", "--skip-serve-logs")):
            self.processes.start(name, [*command, name, *options], self.environment)
        limit = time.monotonic() + HEALTHY_SECONDS
        while not self._healthy():
            if (name := self.processes.ended()) or time.monotonic() > limit:
                raise AirflowError(f"Airflow's {name or 'parts'} did not start; look into {self.processes.logs}")
            time.sleep(0.5)
        self._log_in()

    def _healthy(self) -> bool:
        try:
            found = self.session.get(f"{self.url}/api/v2/monitor/health", timeout=5).json()
        except (requests.RequestException, ValueError):
            return False
        parts = ("metadatabase", "scheduler", "dag_processor")
        return all(found.get(part, {}).get("status") == "healthy" for part in parts)

    def _log_in(self) -> None:
        body = {"username": "admin", "password": load_secrets(self.home)["admin"]}
        answer = self.session.post(f"{self.url}/auth/token", json=body, timeout=30)
        if answer.status_code == 401:  # the port was free when it was chosen
            raise AirflowError(f"Another Airflow answers at {self.url}. Start again, or set CARCLF_PORT.")
        answer.raise_for_status()
        self.session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One call of the REST API; AirflowFailed with its words where it refuses."""
        answer = self._ask(method, f"{self.url}/api/v2/{path}", body)
        if answer.status_code >= 400:
            raise AirflowError(f"Airflow refused {method} {path} ({answer.status_code}): {answer.text[:500]}")
        return answer.json()

    def _ask(self, method: str, url: str, body: Any) -> requests.Response:
        for tries_left in (2, 1, 0):
            if name := self.processes.ended():
                raise AirflowError(f"{name} has ended; look into {self.processes.logs}/{name}.log")
            try:
                return self.session.request(method, url, json=body, timeout=60)
            except requests.RequestException as error:
                # Only a question may be asked again: a lost answer to POST may have begun a run.
                if method != "GET" or not tries_left:
                    raise AirflowError(f"Airflow did not answer {method} {url}: {error}") from error
                time.sleep(2)
        raise AssertionError("the last try returns or raises")

    def wait_for_dag(self, dag_id: str) -> None:
        """Until the DAG is known; AirflowFailed with the import error where it has one."""
        limit = time.monotonic() + HEALTHY_SECONDS
        while time.monotonic() < limit:
            if any(dag["dag_id"] == dag_id for dag in self.call("GET", "dags")["dags"]):
                return
            if errors := self.call("GET", "importErrors")["import_errors"]:
                raise AirflowError(f"{errors[0]['filename']} cannot be imported:\n{errors[0]['stack_trace'][-2000:]}")
            time.sleep(0.5)
        raise AirflowError(f"The DAG {dag_id} did not appear; look into {self.processes.logs}")
