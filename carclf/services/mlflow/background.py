"""Work for MLflow beside a stage: a server that is away, hangs or refuses costs one warning and hardly any time."""

import logging
import os
import re
import time
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread

from carclf.progress import log

WAIT_SECONDS = 20.0  # at the end of a stage, for what MLflow has not taken yet
PAUSE_SECONDS = 120.0  # after a failure, until MLflow is asked again
THREAD_NAME = "carclf-mlflow"
# MLflow's own would wait for minutes, and it would call home and print to the standard output.
DEFAULT_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "4", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1", "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class _Pause:
    """Until when this process leaves MLflow alone, and whether that was said."""

    until = 0.0
    told = False


def mlflow_enabled() -> bool:
    """Whether MLflow is to be told anything; its client is then imported (about two seconds), by the calling thread.

    An import by another thread, while the stage imports TensorFlow, could meet half-imported modules.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI", "").strip():
        return False
    for name, value in DEFAULT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import mlflow  # noqa: F401
    except ImportError as error:
        _give_up(error)
        return False
    logging.getLogger("urllib3.connectionpool").addFilter(_not_ours)
    return True


def _not_ours(record: logging.LogRecord) -> bool:
    return record.threadName != THREAD_NAME  # each retry of a request would be a warning of its own


class BackgroundQueue:
    """Does pieces of work in their order in a thread of its own; leave it by ``end``."""

    def __init__(self) -> None:
        self._pieces: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name=THREAD_NAME, daemon=True)
        self._thread.start()

    def later(self, piece: Callable[[], None]) -> None:
        """Do this when what came before is done; it is left out where MLflow failed a short while ago."""
        self._pieces.put(piece)

    def end(self) -> None:
        """Wait a moment for what is left; what takes longer goes on while the process lives."""
        self._pieces.put(None)
        self._thread.join(WAIT_SECONDS)
        if self._thread.is_alive():
            _give_up(TimeoutError(f"it has not taken everything within {WAIT_SECONDS:.0f} s"))

    def _work(self) -> None:
        while (piece := self._pieces.get()) is not None:
            if time.monotonic() < _Pause.until:
                continue
            try:
                piece()
            except Exception as error:  # noqa: BLE001 (whatever is wrong with MLflow: no stage fails by it)
                _give_up(error)


def _give_up(error: Exception) -> None:
    _Pause.until = time.monotonic() + PAUSE_SECONDS
    level = logging.DEBUG if _Pause.told else logging.WARNING
    _Pause.told = True
    log.log(level, "MLflow at %s: %s. The run goes on without it; the next stage that reaches it tells it everything",
            redact_credentials(os.environ["MLFLOW_TRACKING_URI"]), redact_credentials(str(error))[:400])


def redact_credentials(text: str) -> str:
    """The text with no name and password in its URLs."""
    return re.sub(r"://[^/@\s]*@", "://", text)
