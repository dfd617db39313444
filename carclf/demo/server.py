"""A loopback server that speaks Kaggle's protocol to the real client, and fails on demand."""

import base64
import logging
import secrets
import threading
from collections import Counter
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from carclf.demo.competition import Competition
from carclf.demo.faults import Fault, FaultKind
from carclf.demo.kaggle_backend import KaggleBackend, SubmissionEntry
from carclf.demo.request_handler import RequestHandler
from carclf.errors import ConfigError

__all__ = ["DemoServer", "Fault", "FaultKind", "SubmissionEntry"]
log = logging.getLogger(__name__)
USERNAME = "demo"
TOKEN = "demo-key"
POLL_SECONDS = 0.1


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("connection to %s failed", client_address, exc_info=True)


class DemoServer(KaggleBackend):
    """One competition at an address; a context manager that serves in a thread.

    Raises ConfigError if the port is taken.
    """

    def __init__(
        self, competition: Competition, *, address: tuple[str, int] = ("127.0.0.1", 0), daily_limit: int = 50,
        scoring_seconds: float = 0.5, submissions_path: Path | None = None,
    ) -> None:
        super().__init__(competition, daily_limit=daily_limit, scoring_seconds=scoring_seconds,
                         submissions_path=submissions_path)
        self.username = USERNAME
        self.token = TOKEN
        basic = base64.b64encode(f"{USERNAME}:{TOKEN}".encode()).decode()
        self.credentials = frozenset({f"Basic {basic}", f"Bearer {TOKEN}"})
        self.signature = secrets.token_hex(16)
        self.faults: list[Fault] = []
        self.calls: Counter[str] = Counter()  # by method, and of the bodies
        self.closed = threading.Event()
        try:
            self.http = _QuietServer(address, type("Bound", (RequestHandler,), {"demo": self}))
        except (OSError, OverflowError) as error:
            raise ConfigError(f"Cannot listen on port {address[1]}: {error}. Give a free one, or 0 for any.") from error
        self.url = f"http://{address[0]}:{self.http.server_address[1]}"

    def __enter__(self) -> "DemoServer":
        threading.Thread(target=self.http.serve_forever, args=(POLL_SECONDS,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()  # ends stalled responses
        self.http.shutdown()
        self.http.server_close()

    def count(self, method: str) -> None:
        """Count a call of a method, whether it succeeds or not."""
        with self.lock:
            self.calls[method] += 1

    def next_fault(self, method: str) -> Fault | None:
        """Use up one call of the first planned fault of a method; None if none is left."""
        with self.lock:
            for fault in self.faults:
                if fault.method == method and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None
