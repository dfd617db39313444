"""Processes that are started together and all end together."""

import os
import signal
import subprocess
import time
import uuid
from pathlib import Path

MARKER_VARIABLE = "CARCLF_PROCESS_GROUP_ID"
TERMINATION_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 8.0
KILL_SECONDS = 5.0


class ProcessGroup:
    """A context manager that ends all processes that it started, and their children, on exit."""

    def __init__(self, log_folder: Path) -> None:
        self.log_folder = log_folder
        self.marker = uuid.uuid4().hex
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: list[str], environment: dict[str, str]) -> Path:
        """Start a command in its own session; return the file of its output."""
        self.log_folder.mkdir(parents=True, exist_ok=True)
        path = self.log_folder / f"{name}.log"
        with path.open("wb") as output:
            self.running[name] = subprocess.Popen(
                command, env=environment | {MARKER_VARIABLE: self.marker}, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )
        return path

    def find_exited(self) -> str:
        """Return the name of a process that has exited, or ""."""
        return next((name for name, process in self.running.items() if process.poll() is not None), "")

    def __enter__(self) -> "ProcessGroup":
        return self

    def __exit__(self, *_: object) -> None:
        # A second Ctrl-C must not interrupt this cleanup.
        previous = {number: signal.signal(number, signal.SIG_IGN) for number in TERMINATION_SIGNALS}
        # All at once: a scheduler that gets SIGTERM alone waits for its tasks.
        self._signal_all(signal.SIGTERM, GRACE_SECONDS)
        self._signal_all(signal.SIGKILL, KILL_SECONDS)
        for number, handler in previous.items():
            signal.signal(number, handler)

    def _signal_all(self, number: signal.Signals, seconds: float) -> None:
        """Send SIGTERM once, or SIGKILL repeatedly, to every living process until none is left."""
        signaled: set[int] = set()
        limit = time.monotonic() + seconds
        while (alive := self.find_alive()) and time.monotonic() < limit:
            for pid in alive - signaled if number == signal.SIGTERM else alive:
                _kill(pid, number)
            signaled |= alive
            time.sleep(0.1)

    def find_alive(self) -> set[int]:
        """Return the living processes in the sessions started here, and others with the marker in their environment.

        Both checks are needed: a process that sets its title overwrites its environment, and a stage starts its own
        session.
        """
        for process in self.running.values():
            process.poll()  # reaps the process if it has exited
        sessions = {process.pid for process in self.running.values()}
        pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
        return {pid for pid in pids if _belongs(pid, sessions, f"{MARKER_VARIABLE}={self.marker}".encode())}


def _belongs(pid: int, sessions: set[int], marker: bytes) -> bool:
    try:
        if "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]:
            return False
        return os.getsid(pid) in sessions or marker in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it has exited meanwhile, or belongs to another user
        return False


def _kill(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
