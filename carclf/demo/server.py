"""A loopback server that speaks Kaggle's protocol to the real client, and breaks it on demand."""

import base64
import logging
import secrets
import threading
from collections import Counter
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from carclf.demo.competition import Competition
from carclf.demo.faults import Fault, FaultKind, take_fault
from carclf.demo.http_handler import RequestHandler
from carclf.demo.kaggle_api import KaggleBackend, SubmissionEntry
from carclf.errors import ConfigError

__all__ = ["DemoServer", "Fault", "FaultKind", "SubmissionEntry"]
log = logging.getLogger(__name__)


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("the client at %s went away", client_address, exc_info=True)


class DemoServer(KaggleBackend):
    """One competition on loopback, or where its clients reach ``host``; a context manager that serves in a thread.

    Raises ConfigError where the port is taken.
    """

    def __init__(
        self,
        competition: Competition,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str = "demo-key",
        username: str = "demo",
        daily_limit: int = 50,
        scoring_seconds: float = 0.5,
        rules_accepted: bool = True,
        memory: Path | None = None,
    ) -> None:
        super().__init__(
            competition, daily_limit=daily_limit, scoring_seconds=scoring_seconds, rules_accepted=rules_accepted,
            memory=memory,
        )
        self.username, self.token = username, token
        basic = base64.b64encode(f"{username}:{token}".encode()).decode()
        self.credentials = frozenset({f"Basic {basic}", f"Bearer {token}"})
        self.signature = secrets.token_hex(16)
        self.faults: list[Fault] = []
        self.calls: Counter[str] = Counter()  # of each method, and of the bodies
        self.closed = threading.Event()
        self.http = self._bind(host, port)
        self.url = f"http://{host}:{self.http.server_address[1]}"

    def _bind(self, host: str, port: int) -> ThreadingHTTPServer:
        try:
            return _QuietServer((host, port), type("Bound", (RequestHandler,), {"demo": self}))
        except (OSError, OverflowError) as error:
            raise ConfigError(f"Port {port} cannot be had: {error}. Give a free one, or 0 for any.") from error

    def serve_forever(self) -> None:
        """Serve until ``close`` is called from another thread."""
        self.http.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        """Stop serving, end stalled answers and free the port."""
        self.closed.set()
        self.http.shutdown()
        self.http.server_close()

    def __enter__(self) -> "DemoServer":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def count(self, method: str) -> None:
        """Note one call of a method, answered or not."""
        with self.lock:
            self.calls[method] += 1

    def next_fault(self, method: str) -> Fault | None:
        """Take the next planned fault of a method, if there is one."""
        with self.lock:
            return take_fault(self.faults, method)
