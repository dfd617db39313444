"""A loopback server that speaks Kaggle's protocol to the real client, and fails on demand."""

import base64
import os
import secrets
import threading
from collections import Counter
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from carclf.demo.competition import Competition, ServedDataset
from carclf.demo.faults import Fault, FaultKind
from carclf.demo.kaggle_backend import METHODS, USERNAME, KaggleBackend, SubmissionEntry
from carclf.demo.request_handler import DOWNLOAD_METHODS, RequestHandler
from carclf.errors import ConfigError
from carclf.progress import log

__all__ = ["DemoServer", "Fault", "FaultKind", "SubmissionEntry"]
KEY_ENV_VAR = "CARCLF_DEMO_KEY"  # a key that the clients know already; by default each server generates one
POLL_SECONDS = 0.1
COUNTED = METHODS | DOWNLOAD_METHODS | {"IntrospectToken", "Download", "Upload"}
MAX_CONNECTIONS = 64  # each has a thread
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class _BoundedServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.free_connections = threading.BoundedSemaphore(MAX_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.free_connections.acquire(blocking=False):
            request.sendall(BUSY)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # the thread could not be started
            self.free_connections.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free_connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("connection to %s failed", client_address, exc_info=True)


class DemoServer(KaggleBackend):
    """Server of competitions and datasets; a context manager that serves in a thread.

    Raise ConfigError if the port is taken.
    """

    def __init__(
        self, competition: Competition, *others: Competition | ServedDataset,
        address: tuple[str, int] = ("127.0.0.1", 0), daily_limit: int = 50, scoring_seconds: float = 0.5,
        submissions_path: Path | None = None,
    ) -> None:
        super().__init__(competition, *others, daily_limit=daily_limit, scoring_seconds=scoring_seconds,
                         submissions_path=submissions_path)
        self.username = USERNAME
        self.token = os.environ.get(KEY_ENV_VAR) or secrets.token_hex(16)
        basic = base64.b64encode(f"{USERNAME}:{self.token}".encode()).decode()
        self.credentials = frozenset({f"Basic {basic}", f"Bearer {self.token}"})
        self.signature = secrets.token_hex(16)
        self.faults: list[Fault] = []
        self.calls: Counter[str] = Counter()  # calls per API method; Download and Upload count file transfers
        self.closed = threading.Event()
        try:
            self.http = _BoundedServer(address, type("Bound", (RequestHandler,), {"demo": self}))
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
            if method in COUNTED:  # anyone may send other names
                self.calls[method] += 1

    def next_fault(self, method: str) -> Fault | None:
        """Return the first planned fault of a method and decrement its ``times``; None if no fault is left."""
        with self.lock:
            for fault in self.faults:
                if fault.method == method and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None
