"""A competition on loopback that speaks Kaggle's protocol, as a process."""

import re
import sys
import time
from pathlib import Path
from typing import Any

from carclf.errors import ConfigError
from carclf_airflow.local.processes import ProcessGroup
from carclf_airflow.local.server import AirflowError

SERVER_SECONDS = 120.0


def start_demo_server(processes: ProcessGroup, work: Path, environment: dict[str, str], **given: Any) -> str:
    """Start ``carclf demo-server`` with the options that are given, and return its address."""
    command = [sys.executable, "-u", "-m", "carclf", "demo-server", "--work-dir", str(work)]
    command += [part for name, value in given.items() if value for part in (f"--{name}", str(value))]
    path = processes.start("demo-server", command, environment)
    limit = time.monotonic() + SERVER_SECONDS
    while time.monotonic() < limit:
        if found := re.search(r"at (http://127\.0\.0\.1:\d+)", path.read_text()):
            return found[1]
        if processes.ended():
            raise ConfigError(f"The demo server did not start: {_reason(path.read_text())}")
        time.sleep(0.2)
    raise AirflowError(f"The demo server gave no address; look into {path}")


def _reason(output: str) -> str:
    """The line in which carclf says what is wrong, or the last lines."""
    lines = output.strip().splitlines()
    return next((line for line in reversed(lines) if line.startswith("carclf: ")), "\n".join(lines[-5:]))
