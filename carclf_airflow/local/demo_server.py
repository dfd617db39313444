"""The demo competition's server as a process of the launcher."""

import re
import secrets
import sys
import time
from pathlib import Path

from carclf.demo.server import KEY_ENV_VAR
from carclf.errors import ConfigError
from carclf_airflow.local.airflow_server import AirflowError
from carclf_airflow.local.processes import ProcessGroup

START_SECONDS = 120.0


def start_demo_server(
    processes: ProcessGroup, work_folder: Path, environment: dict[str, str], options: dict[str, object] | None = None
) -> dict[str, str]:
    """Start ``carclf demo-server`` with the options that have a value.

    Return the environment of its clients: its URL and its key, which no file contains.
    """
    key = secrets.token_hex(16)
    command = [sys.executable, "-u", "-m", "carclf", "demo-server", "--work-dir", str(work_folder)]
    command += [part for name, value in (options or {}).items() if value for part in (f"--{name}", str(value))]
    path = processes.start("demo-server", command, environment | {KEY_ENV_VAR: key})
    limit = time.monotonic() + START_SECONDS
    while time.monotonic() < limit:
        if match := re.search(r"at (http://127\.0\.0\.1:\d+)", path.read_text()):
            # KAGGLE_API_TOKEN has precedence over any other credentials of the user.
            return {"CARCLF_KAGGLE_ENDPOINT": match[1], "KAGGLE_API_TOKEN": key}
        if processes.find_exited():
            raise ConfigError(f"The demo server did not start: {_error_line(path.read_text())}")
        time.sleep(0.2)
    raise AirflowError(f"The demo server did not start within {START_SECONDS:.0f} s; see {path}")


def _error_line(output: str) -> str:
    """Return the message that carclf reports, without the error's type, or the last lines."""
    lines = output.strip().splitlines()
    errors = [match[1] for line in lines if (match := re.match(r"carclf: \w+: (.*)", line))]
    return errors[-1] if errors else "\n".join(lines[-5:])
