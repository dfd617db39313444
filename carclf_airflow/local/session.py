"""Parts shared by ``demo`` and ``up``: the state folder and its lock, the stages' environment, and waiting."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path, PurePath

from carclf.config.sources import require_source
from carclf.errors import ConfigError
from carclf.hardware import list_gpus
from carclf.os_errors import expand_home
from carclf_airflow.local.airflow_server import REPOSITORY_ROOT, Airflow, AirflowError
from carclf_airflow.local.processes import ProcessGroup

PARALLELISM = "CARCLF_MAX_PARALLEL_TRAININGS"


def state_folder() -> Path:
    """Return CARCLF_LOCAL_FOLDER, by default a folder in the repository; raise ConfigError if its home is unknown."""
    return expand_home(os.environ.get("CARCLF_LOCAL_FOLDER") or REPOSITORY_ROOT / ".local", "CARCLF_LOCAL_FOLDER")


def stage_environment(store: str) -> dict[str, str]:
    """Return this process's environment for the stages that use the store.

    Airflow's variables belong to another Airflow, except for those of OpenLineage.
    """
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith("AIRFLOW") or name.startswith("AIRFLOW__OPENLINEAGE__")}
    # LocalExecutor ignores queues, so this limits the trainings to what the machine can hold.
    environment.setdefault(PARALLELISM, "1" if list_gpus() else "2")
    return environment | {"CARCLF_STORE": store, "PYTHONPATH": str(REPOSITORY_ROOT)}


def absolute_source(text: str) -> str:
    """Return ``data.source`` with an absolute path: the stages run in another folder.

    Raises:
        ConfigError: The text is no source, or the path does not exist.
    """
    try:
        source = require_source(text)
    except ValueError as error:
        raise ConfigError(f"The source {text!r}: {error}.") from None
    if source.kind not in ("folder", "file"):
        return text
    if not (path := expand_home(source.name, "data.source")).exists():
        raise ConfigError(f"The source {text} does not exist. Give a folder or an archive, or a competition's slug.")
    return str(path.resolve())


def store_name(*parts: str) -> str:
    """Return a folder name for a store; a part that is a source becomes its last name and a hash."""
    names = [part if "/" not in part else f"{PurePath(part).name}-{sha256(part.encode()).hexdigest()[:8]}"
             for part in parts if part]
    return "-".join(["store", *names])


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: two Airflows on one database would run each other's tasks.

    Raises:
        ConfigError: The folder cannot be created, or another process holds the lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # an earlier version may have created it with another mode
    except OSError as error:
        raise ConfigError(f"Cannot create the folder {folder}: {error.strerror}. Set CARCLF_LOCAL_FOLDER to another "
                          "folder.") from None
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{folder} is in use by another 'make demo' or 'make up'. Stop it first (Ctrl-C), or set "
                              "CARCLF_LOCAL_FOLDER to another folder.") from None
        yield


def print_url(airflow: Airflow) -> None:
    """Print the URL of the UI and its login."""
    print(f"UI           {airflow.url}  (user admin, password in {airflow.home / 'passwords.json'})", flush=True)


def wait_until_interrupted(processes: ProcessGroup) -> None:
    """Wait for Ctrl-C.

    Raises:
        AirflowError: A process has exited; runs would wait for it forever.
    """
    print("Press Ctrl-C to stop everything.", flush=True)
    try:
        while not (name := processes.find_exited()):
            time.sleep(1)
    except KeyboardInterrupt:
        print("Stopping", flush=True)
        return
    raise AirflowError(f"{name} has exited; see {processes.log_folder}/{name}.log, then start again")
