"""Airflow on this machine: SQLite, LocalExecutor, loopback only, a generated password; and its REST API."""

import base64
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any

import requests

from carclf.errors import ConfigError
from carclf_airflow.local.processes import ProcessGroup

HEALTHY_SECONDS = 180.0
SQLITE_TIMEOUT_SECONDS = 60  # on a busy disk, locks last long, and a component exits if it times out
NUM_WORKERS = 4  # tasks at once
MAX_PORT = 65535
GET_ATTEMPTS = 3
COMPONENTS = ("metadatabase", "scheduler", "dag_processor")
REPOSITORY_ROOT = Path(__file__).resolve().parents[2]


class AirflowError(Exception):
    """Airflow did not start or did not respond; the message names its log."""


def _requested_port() -> int:
    text = os.environ.get("CARCLF_PORT") or "8080"
    if not text.isdecimal() or int(text) > MAX_PORT:
        raise ConfigError(f"Invalid CARCLF_PORT={text}: expected a number up to {MAX_PORT}, or 0 for any free port.")
    return int(text)


def free_port(preferred: int) -> int:
    """Return the preferred port if it is free on loopback, else any free port."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            # Like a server: connections of a server that has just exited do not block its port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise AirflowError("No port is free on 127.0.0.1.")


def load_secrets(home: Path) -> dict[str, str]:
    """Return the keys and the admin's password; they are generated once and kept in files of mode 600."""
    path = home / "secrets.json"
    if not path.exists():
        home.mkdir(parents=True, exist_ok=True)
        _write_private(path, json.dumps({
            "fernet": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(), "api": secrets.token_hex(32),
            "jwt": secrets.token_hex(32), "admin": secrets.token_urlsafe(12),
        }))
    keys: dict[str, str] = json.loads(path.read_text())
    _write_private(home / "passwords.json", json.dumps({"admin": keys["admin"]}))
    return keys


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def airflow_environment(home: Path, port: int, num_workers: int) -> dict[str, str]:
    """Return the environment of a small, private Airflow."""
    keys = load_secrets(home)
    options = {
        "core__dags_folder": str(REPOSITORY_ROOT / "dags"), "core__load_examples": "False",
        "core__executor": "LocalExecutor", "core__parallelism": str(num_workers), "core__fernet_key": keys["fernet"],
        "core__simple_auth_manager_users": "admin:admin",
        "core__simple_auth_manager_passwords_file": str(home / "passwords.json"),
        "core__execution_api_server_url": f"http://127.0.0.1:{port}/execution/",
        "database__sql_alchemy_conn": f"sqlite:///{home / 'airflow.db'}?timeout={SQLITE_TIMEOUT_SECONDS}",
        "api__host": "127.0.0.1", "api__port": str(port), "api__base_url": f"http://127.0.0.1:{port}",
        "api__instance_name": "Car classifier", "api__secret_key": keys["api"], "api__workers": "1",
        "api_auth__jwt_secret": keys["jwt"], "logging__base_log_folder": str(home / "logs"),
        # Airflow sets these modes itself, whatever the umask is.
        "logging__file_task_handler_new_folder_permissions": "0o700",
        "logging__file_task_handler_new_file_permissions": "0o600",
        "workers__min_heartbeat_interval": "1", "scheduler__scheduler_idle_sleep_time": "0.2",
        # Changed files are parsed at once. Parsing the others each 30 seconds takes processor time from trainings.
        "dag_processor__refresh_interval": "60", "dag_processor__min_file_process_interval": "120",
        "usage_data_collection__enabled": "False",
    }
    return {f"AIRFLOW__{name.upper()}": value for name, value in options.items()} | {
        "AIRFLOW_HOME": str(home), "PYTHONWARNINGS": "ignore", "NO_PROXY": "127.0.0.1,localhost",
    }


class Airflow:
    """A running Airflow and its REST API."""

    def __init__(
        self, home: Path, processes: ProcessGroup, environment: dict[str, str], *, num_workers: int = NUM_WORKERS
    ) -> None:
        self.home = home
        self.processes = processes
        self.port = free_port(_requested_port())
        self.url = f"http://127.0.0.1:{self.port}"
        path = f"{Path(sys.executable).parent}:{environment.get('PATH', os.defpath)}"
        self.environment = environment | airflow_environment(home, self.port, num_workers) | {"PATH": path}
        self.session = requests.Session()
        self.session.trust_env = False  # loopback needs no proxy

    def start(self) -> None:
        """Create the database, start the components, wait until all are healthy, and log in."""
        command = [sys.executable, "-m", "airflow"]
        migration = subprocess.run([*command, "db", "migrate"], env=self.environment, capture_output=True, text=True,
                                   check=False)
        if migration.returncode:
            raise AirflowError(f"airflow db migrate failed:\n{(migration.stdout + migration.stderr)[-2000:]}")
        # Airflow's log server listens on every address; here the logs are read from the folder.
        # No task is deferred to the triggerer, but without one Airflow's home page shows it as unhealthy.
        no_logs = "--skip-serve-logs"
        for name, *options in (("api-server",), ("dag-processor",), ("scheduler", no_logs), ("triggerer", no_logs)):
            self.processes.start(name, [*command, name, *options], self.environment)
        limit = time.monotonic() + HEALTHY_SECONDS
        while not self._healthy():
            if (name := self.processes.find_exited()) or time.monotonic() > limit:
                problem = f": {name} has exited" if name else f" within {HEALTHY_SECONDS:.0f} s"
                raise AirflowError(f"Airflow did not start{problem}; see {self.processes.log_folder}")
            time.sleep(0.5)
        self._log_in()

    def _healthy(self) -> bool:
        try:
            health = self.session.get(f"{self.url}/api/v2/monitor/health", timeout=5).json()
        except (requests.RequestException, ValueError):
            return False
        return all(health.get(component, {}).get("status") == "healthy" for component in COMPONENTS)

    def _log_in(self) -> None:
        body = {"username": "admin", "password": load_secrets(self.home)["admin"]}
        response = self.session.post(f"{self.url}/auth/token", json=body, timeout=30)
        if response.status_code == HTTPStatus.UNAUTHORIZED:  # another Airflow took the port meanwhile
            raise AirflowError(f"Another Airflow is running at {self.url}. Start again, or set CARCLF_PORT.")
        response.raise_for_status()
        self.session.headers["Authorization"] = f"Bearer {response.json()['access_token']}"

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Call the REST API and return its JSON.

        Raises:
            AirflowError: Airflow responded with an error, or not at all.
        """
        response = self._request(method, f"{self.url}/api/v2/{path}", body)
        if not response.ok:
            raise AirflowError(f"{method} {path} failed ({response.status_code}): {response.text[:500]}")
        return response.json()

    def _request(self, method: str, url: str, body: Any) -> requests.Response:
        for attempt in range(1, GET_ATTEMPTS + 1):
            if name := self.processes.find_exited():
                raise AirflowError(f"{name} has exited; see {self.processes.log_folder}/{name}.log")
            try:
                return self.session.request(method, url, json=body, timeout=60)
            except requests.RequestException as error:
                # Only GET is retried: a POST whose response was lost may have started a run.
                if method != "GET" or attempt == GET_ATTEMPTS:
                    raise AirflowError(f"Airflow did not respond to {method} {url}: {error}") from error
                time.sleep(2)
        raise AssertionError("the last attempt returns or raises")

    def wait_for_dag(self, dag_id: str) -> None:
        """Wait until Airflow has loaded the DAG.

        Raises:
            AirflowError: The DAG cannot be imported, or did not appear in time.
        """
        limit = time.monotonic() + HEALTHY_SECONDS
        while time.monotonic() < limit:
            if any(dag["dag_id"] == dag_id for dag in self.call("GET", "dags")["dags"]):
                return
            if errors := self.call("GET", "importErrors")["import_errors"]:
                raise AirflowError(f"{errors[0]['filename']} cannot be imported:\n{errors[0]['stack_trace'][-2000:]}")
            time.sleep(0.5)
        raise AirflowError(f"The DAG {dag_id} did not appear; see {self.processes.log_folder}")
