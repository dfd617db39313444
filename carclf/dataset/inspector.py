"""Inspection in other processes: an image that crashes or blocks a decoder costs one image, not the stage."""

import math
import os
import signal
import tempfile
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from carclf.artifacts import file_sha256
from carclf.dataset.inspection import EMPTY_ROW, LargeImageError, Row
from carclf.errors import ConfigError
from carclf.images import decode

# A process forked from this one could inherit a lock that another thread holds. A fork server needs a socket in TMPDIR,
# whose path, with 32 more bytes, must have less than 108.
MAX_SOCKET_FOLDER = 75
HAS_SHORT_PATH = len(os.fsencode(tempfile.gettempdir())) <= MAX_SOCKET_FOLDER
CONTEXT = get_context("forkserver") if HAS_SHORT_PATH else get_context("spawn")
CONTEXT.set_forkserver_preload(["__main__", "carclf.dataset.inspection"])
SECONDS_PER_IMAGE = 120  # the largest images take a few seconds
MAX_ATTEMPTS = 2  # the system ends processes if memory is short, whatever image they read
START_SECONDS = 120
READY = "ready"  # the first message of a process

Inspect = Callable[..., Row]


class Inspector:
    """A process that calls ``inspect(path, max_size=...)``, and is started again if it ends.

    Only one thread may use it at a time. ``inspect`` is sent to the process, so it must be a function of a module. It
    raises LargeImageError for images of more than ``max_size`` pixels or bytes.
    """

    def __init__(self, inspect: Inspect) -> None:
        self._inspect = inspect
        self._is_ready = False
        self._connection, self._process = self._start()

    def __call__(self, path: Path) -> Row:
        """Return the row of an image. Large images wait for each other, which bounds the memory."""
        try:
            return self._request(path, decode.LARGE)
        except LargeImageError:
            with decode.large_image_lock(math.inf):
                return self._request(path, math.inf)

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join()

    def _start(self) -> tuple[Connection, BaseProcess]:
        connection, remote = CONTEXT.Pipe()
        process = CONTEXT.Process(target=_serve, args=(remote, self._inspect), daemon=True)
        process.start()
        remote.close()
        return connection, process

    def _restart(self) -> None:
        self._process.kill()
        self.close()
        self._is_ready = False
        self._connection, self._process = self._start()

    def _wait_until_ready(self) -> None:
        """Wait for the process to start. Raise ConfigError if it ends instead: it imports the main module before."""
        for _ in range(MAX_ATTEMPTS):
            try:
                self._is_ready = self._connection.poll(START_SECONDS) and self._connection.recv() == READY
            except (EOFError, ConnectionError):
                self._is_ready = False
            if self._is_ready:
                return
            self._restart()
        raise ConfigError("The processes that decode images end when they start. They import your script, so call "
                          "carclf in it below the line: if __name__ == '__main__':")

    def _request(self, path: Path, max_size: float) -> Row:
        problem = ""
        for _ in range(MAX_ATTEMPTS):
            if not self._is_ready:
                self._wait_until_ready()
            try:
                self._connection.send((path, max_size))
                if self._connection.poll(SECONDS_PER_IMAGE):
                    return _receive(self._connection)
                problem = f"decoding it takes more than {SECONDS_PER_IMAGE} seconds"
            except (EOFError, ConnectionError):
                problem = "the decoder crashes"
            self._restart()
        return EMPTY_ROW | {
            "sha256": file_sha256(path), "problem_kind": "undecodable", "problem": f"cannot be decoded: {problem}"}


def _receive(connection: Connection) -> Row:
    reply: Row | Exception = connection.recv()
    if isinstance(reply, Exception):
        raise reply
    return reply


def _serve(connection: Connection, inspect: Inspect) -> None:
    """Respond to requests until the other process ends or closes the connection.

    The other process raises OSError and LargeImageError. Any other exception ends this process like a crash.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends this one
    with suppress(ConnectionError):  # it may be closed already; recv finds it out
        connection.send(READY)
    while True:
        try:
            path, max_size = connection.recv()
        except (EOFError, ConnectionError):
            return
        try:
            connection.send(inspect(path, max_size=max_size))
        except (OSError, LargeImageError) as error:
            connection.send(error)
        except Exception:  # noqa: BLE001 (a traceback of this process would not be redacted)
            os._exit(1)
