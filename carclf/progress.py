"""How far a long piece of work is: a bar on a terminal, else a line every few seconds."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from carclf.formatting import printable

log = logging.getLogger("carclf")


def _one_line(record: logging.LogRecord) -> bool:
    # Names of files may hold anything: no line of the log shall be forged by one.
    record.msg, record.args = printable(record.getMessage()), ()
    return True


log.addFilter(_one_line)

STAGE_START_COLOR, STAGE_END_COLOR, WARNING = "1", "32", "33"  # ANSI: bold, green, yellow


class LogLines(logging.Formatter):
    """Warnings are called so; in colours, where those are wanted, a stage's begin, its end and warnings stand out."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(mark)s%(message)s")
        wanted = "FORCE_COLOR" in os.environ or sys.stderr.isatty()
        self.coloured = wanted and "NO_COLOR" not in os.environ

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """The line; a call of the log names its color by ``extra={"color": BEGIN}``."""
        warned = record.levelno >= logging.WARNING
        record.mark = "warning: " if warned else ""
        color = WARNING if warned else getattr(record, "color", "")
        line = super().formatMessage(record)
        return f"\x1b[{color}m{line}\x1b[0m" if color and self.coloured else line


SECONDS_BETWEEN_LINES = 5.0
# What is told: of which work, how much of it is done, of how much, and what was measured meanwhile.
Listener = Callable[[str, int, int, Mapping[str, float]], None]
_listeners: list[Listener] = []


@contextmanager
def progress_listener(listener: Listener) -> Iterator[None]:
    """While this holds, the listener is told every few seconds what the lines of the log say."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def report_progress(what: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
    """Tell the listeners, without a line in the log."""
    for listener in _listeners:
        listener(what, done, total, metrics)


class Meter:
    """Call it with (done, total, note, metrics); use it as a context manager so that the bar is put away."""

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
        return self.bar is not None or self._line_due

    @property
    def _line_due(self) -> bool:
        return time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES

    def __call__(self, done: int, total: int, note: str = "", metrics: Mapping[str, float] | None = None) -> None:
        if self.bar:
            self.bar.update(self.task, completed=done, total=total, description=f"{self.what} {note}")
        if not self._line_due:
            return
        now = self.last_line = time.monotonic()
        rate = (done - self.before) / (now - self.started)
        report_progress(self.what, done, total, {"per_second": rate, **(metrics or {})})
        if not self.bar:
            eta = f"{(total - done) / rate:.0f} s" if rate else "unknown"
            log.info("%s %d/%d, %.1f/s, ETA %s%s", self.what, done, total, rate, eta, f", {note}" if note else "")
