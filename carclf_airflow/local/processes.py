"""Processes that are started together and surely ended together."""

import os
import signal
import subprocess
import time
import uuid
from pathlib import Path

MARKER_VARIABLE = "CARCLF_PROCESS_GROUP_ID"
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 8.0


class ProcessGroup:
    """A context manager: when it ends, no process that carries its mark in the environment is left."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.mark = uuid.uuid4().hex
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: list[str], environment: dict[str, str]) -> Path:
        """Start a command in a group of its own; return the file of its output."""
        self.logs.mkdir(parents=True, exist_ok=True)
        path = self.logs / f"{name}.log"
        with path.open("wb") as output:
            self.running[name] = subprocess.Popen(
                command, env=environment | {MARKER_VARIABLE: self.mark}, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )
        return path

    def ended(self) -> str:
        """The name of a process that ended by itself, or ""."""
        return next((name for name, process in self.running.items() if process.poll() is not None), "")

    def __enter__(self) -> "ProcessGroup":
        return self

    def __exit__(self, *_: object) -> None:
        """SIGTERM to every marked process at once: a scheduler told alone would wait for its tasks to finish."""
        # A second Ctrl-C must not leave half of them.
        before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
        told: set[int] = set()
        for number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, 5.0)):
            limit = time.monotonic() + seconds
            while (left := self._left()) and time.monotonic() < limit:
                for pid in left - told if number == signal.SIGTERM else left:
                    _kill(pid, number)
                told |= left
                time.sleep(0.1)
        for number, action in before.items():
            signal.signal(number, action)

    def _left(self) -> set[int]:
        """The living processes of the sessions started here, and those that left them but carry the mark.

        Neither is enough alone: a process that sets its title overwrites its environment, and a stage has a
        session of its own.
        """
        for process in self.running.values():
            process.poll()  # buries those that ended
        sessions = {process.pid for process in self.running.values()}
        pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
        return {pid for pid in pids if _belongs(pid, sessions, f"{MARKER_VARIABLE}={self.mark}".encode())}


def _belongs(pid: int, sessions: set[int], mark: bytes) -> bool:
    try:
        if "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]:
            return False
        return os.getsid(pid) in sessions or mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it ended meanwhile, or it is another user's
        return False


def _kill(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
