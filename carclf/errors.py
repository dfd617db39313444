"""Every error that carclf raises on purpose; the exit status tells Airflow whether a retry can help."""

from datetime import datetime
from typing import ClassVar


class CarclfError(Exception):
    """Something went wrong; the message says what happened, what was expected and how to mend it."""

    exit_status: ClassVar[int] = 1


class DataError(CarclfError):
    """The data are unusable: a retry without other data cannot help."""

    exit_status = 65


class QualityError(CarclfError):
    """The model is not good enough for what was asked."""

    exit_status = 65


class ConfigError(CarclfError):
    """A setting, a credential or a permission is wrong: a retry without a mend cannot help."""

    exit_status = 78


class ServiceError(CarclfError):
    """An outside system failed for the moment: trying again later may help."""

    exit_status = 75


class StageWaiting(Exception):
    """No error: a stage waits for something outside, and is to be run again, best not before ``until``.

    ``metrics`` are what it knows already.
    """

    def __init__(
        self, message: str, *, until: datetime | None = None, metrics: dict[str, float | int | str | list[int]] | None = None
    ) -> None:
        super().__init__(message)
        self.until, self.metrics = until, metrics or {}
