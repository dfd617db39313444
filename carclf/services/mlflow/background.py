"""Background work for MLflow: a server that fails or hangs costs a stage one warning and hardly any time."""

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread

from carclf.errors import ConfigError, ServiceError
from carclf.progress import log

WAIT_SECONDS = 20.0  # at most, at the end of a stage, for pending requests
PAUSE_SECONDS = 120.0  # after a failure, until the next request
THREAD_NAME = "carclf-mlflow"
MAX_ERROR_LENGTH = 400
# MLflow's defaults wait for minutes, send telemetry, and print to the standard output.
DEFAULT_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "4", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1", "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class Outage:
    """The last failure of MLflow in this process. It suspends requests for a while and logs a single warning."""

    def __init__(self) -> None:
        self._until = 0.0
        self._logged = False

    @property
    def active(self) -> bool:
        """Return whether requests are suspended."""
        return time.monotonic() < self._until

    def start(self, error: Exception) -> None:
        """Log the failure, as a warning the first time, and suspend requests."""
        self._until = time.monotonic() + PAUSE_SECONDS
        level = logging.DEBUG if self._logged else logging.WARNING
        self._logged = True
        log.log(level, "MLflow at %s: %s. The run continues without it; the next stage that reaches it logs everything",
                redact_credentials(os.environ["MLFLOW_TRACKING_URI"]),
                redact_credentials(str(error))[:MAX_ERROR_LENGTH])


outage = Outage()


def mlflow_enabled() -> bool:
    """Return whether MLflow is in use: MLFLOW_TRACKING_URI is set, and the package is installed."""
    if not mlflow_configured():
        return False
    try:
        import_mlflow()
    except ConfigError as error:
        outage.start(error)
        return False
    return True


def mlflow_configured() -> bool:
    """Return whether MLFLOW_TRACKING_URI is set."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI", "").strip())


def import_mlflow() -> None:
    """Import MLflow's client (about two seconds); raise ConfigError if it is not installed.

    An import in another thread, while the stage imports TensorFlow, could see half-imported modules.
    """
    for name, value in DEFAULT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import mlflow  # noqa: F401
    except ImportError as error:
        raise ConfigError("MLFLOW_TRACKING_URI is set, but the package mlflow-skinny is not installed. Install it, or "
                          "remove the variable.") from error
    logging.getLogger("urllib3.connectionpool").addFilter(_is_from_other_thread)


def _is_from_other_thread(record: logging.LogRecord) -> bool:
    return record.threadName != THREAD_NAME  # urllib3 would log a warning for each retry


class BackgroundQueue:
    """Runs tasks one after another in a thread. Close it at the end."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name=THREAD_NAME, daemon=True)
        self._thread.start()

    def submit(self, task: Callable[[], object]) -> None:
        """Run the task after the earlier ones; it is skipped shortly after a failure of MLflow."""
        self._tasks.put(task)

    def close(self) -> None:
        """Wait for the remaining tasks, at most WAIT_SECONDS; unfinished tasks continue while the process lives."""
        self._tasks.put(None)
        self._thread.join(WAIT_SECONDS)
        if self._thread.is_alive():
            outage.start(TimeoutError(f"it did not accept everything within {WAIT_SECONDS:.0f} s"))

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if outage.active:
                continue
            try:
                task()
            except Exception as error:  # noqa: BLE001 (no error of MLflow may fail a stage)
                outage.start(error)


@contextmanager
def raising_service_errors() -> Iterator[None]:
    """Turn MLflow's errors into ServiceError, for commands that are about MLflow alone."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        uri = redact_credentials(os.environ["MLFLOW_TRACKING_URI"])
        raise ServiceError(f"MLflow at {uri}: {redact_credentials(str(error))[:MAX_ERROR_LENGTH]}. Try again later; if "
                           "it keeps failing, check the server, MLFLOW_TRACKING_URI and the login.") from error


def redact_credentials(text: str) -> str:
    """Remove user names and passwords from the URLs in a text."""
    return re.sub(r"://[^/@\s]*@", "://", text)
