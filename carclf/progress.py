"""Logging and progress: a bar on a terminal, otherwise a log line every few seconds, and calls of listeners."""

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


def _escape(record: logging.LogRecord) -> bool:
    # A file name may contain anything: unescaped, it could forge a line of the log.
    record.msg = printable(record.getMessage())
    record.args = ()
    return True


log.addFilter(_escape)

# ANSI codes: bold, green, yellow
STAGE_START_COLOR = "1"
STAGE_END_COLOR = "32"
WARNING_COLOR = "33"
# Set for a stage that runs in an Airflow task: each line starts with its level instead of the time, which Airflow adds.
TASK_LOG_VARIABLE = "CARCLF_TASK_LOG"


class LogFormatter(logging.Formatter):
    """Prefixes warnings, and on a terminal colors them and the lines with ``extra={"color": STAGE_END_COLOR}``.

    rich decides whether to use colors (it reads FORCE_COLOR and NO_COLOR). Its RichHandler is not used because it
    wraps lines.
    """

    def __init__(self) -> None:
        self.in_task = TASK_LOG_VARIABLE in os.environ
        super().__init__("%(message)s" if self.in_task else "%(asctime)s %(prefix)s%(message)s")
        console = Console(stderr=True)
        self.colored = console.is_terminal and not console.no_color

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """Format one line."""
        is_warning = record.levelno >= logging.WARNING
        record.prefix = "warning: " if is_warning else ""
        color = WARNING_COLOR if is_warning else getattr(record, "color", "")
        line = super().formatMessage(record)
        line = f"\x1b[{color}m{line}\x1b[0m" if color and self.colored else line
        return f"{record.levelname} {line}" if self.in_task else line


SECONDS_BETWEEN_LINES = 5.0
Listener = Callable[[str, int, int, Mapping[str, float]], None]  # activity, done, total, metrics
_listeners: list[Listener] = []


@contextmanager
def progress_listener(listener: Listener) -> Iterator[None]:
    """Call the listener with every progress report inside the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def report_progress(activity: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
    """Call the listeners, without a log line."""
    for listener in _listeners:
        listener(activity, done, total, metrics)


class Meter:
    """Progress of one activity: a context manager that is called with ``(done, total, note, metrics)``.

    An earlier process has finished ``done`` already, which does not count for the rate.
    """

    def __init__(self, activity: str, *, done: int = 0) -> None:
        self.activity = activity
        self.initially_done = done
        self.started = self.last_line = time.monotonic()
        self.bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self.bar.add_task(activity, total=None)

    def __enter__(self) -> "Meter":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    @property
    def due(self) -> bool:
        """True if a call would show something now. Check it before computing an expensive note or metrics."""
        return self.bar is not None or self._line_due

    @property
    def _line_due(self) -> bool:
        return time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES

    def __call__(self, done: int, total: int, note: str = "", metrics: Mapping[str, float] | None = None) -> None:
        """Report that ``done`` of ``total`` are finished."""
        if self.bar:
            self.bar.update(self.bar.task_ids[0], completed=done, total=total, description=f"{self.activity} {note}")
        if not self._line_due:
            return
        self.last_line = time.monotonic()
        rate = (done - self.initially_done) / (self.last_line - self.started)
        report_progress(self.activity, done, total, {"per_second": rate, **(metrics or {})})
        if self.bar is None:
            eta = f"{(total - done) / rate:.0f} s" if rate else "unknown"
            suffix = f", {note}" if note else ""
            log.info("%s: %d/%d, %.1f/s, ETA %s%s", self.activity, done, total, rate, eta, suffix)
