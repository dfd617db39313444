"""How far a long piece of work is: a bar on a terminal, else a line every few seconds."""

import logging
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger("carclf")


def printable(text: str) -> str:
    """The text with line ends, control characters and what no UTF-8 can say as escapes: it stays one line."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _one_line(record: logging.LogRecord) -> bool:
    # Names of files may hold anything: no line of the log shall be forged by one.
    record.msg, record.args = printable(record.getMessage()), ()
    return True


log.addFilter(_one_line)

SECONDS_BETWEEN_LINES = 5.0


class Meter:
    """Call it with (done, total, note); use it as a context manager so that the bar is put away."""

    def __init__(self, what: str, *, done: int = 0) -> None:
        self.what, self.before = what, done  # what an earlier process did tells nothing of this one's speed
        self.started = self.last_line = time.monotonic()
        self.bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self.task = self.bar.add_task(what, total=None)

    def __enter__(self) -> "Meter":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    @property
    def due(self) -> bool:
        """Whether a call would show anything now: what it says may cost something."""
        return self.bar is not None or time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES

    def __call__(self, done: int, total: int, note: str = "") -> None:
        if self.bar:
            self.bar.update(self.task, completed=done, total=total, description=f"{self.what} {note}")
            return
        if self.due:
            now = self.last_line = time.monotonic()
            rate = (done - self.before) / (now - self.started)
            eta = f"{(total - done) / rate:.0f} s" if rate else "unknown"
            log.info("%s %d/%d, %.1f/s, ETA %s%s", self.what, done, total, rate, eta, f", {note}" if note else "")
