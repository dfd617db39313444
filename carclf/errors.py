"""Every error that carclf raises on purpose. Airflow decides by the exit status whether to retry."""

from collections.abc import Mapping
from datetime import datetime
from typing import ClassVar


class CarclfError(Exception):
    """An error whose message gives what happened, what was expected and how to fix it."""

    exit_status: ClassVar[int] = 1


class DataError(CarclfError):
    """The data cannot be used. A retry with the same data cannot help."""

    exit_status = 65


class QualityError(CarclfError):
    """The model is not good enough for what was asked."""

    exit_status = 65


class ConfigError(CarclfError):
    """A setting, a credential or a permission is wrong. A retry without a fix cannot help."""

    exit_status = 78


class ServiceError(CarclfError):
    """An outside system failed temporarily. A later retry may help."""

    exit_status = 75


class StageWaiting(Exception):
    """A stage waits for something outside and must be run again. This is not an error.

    Attributes:
        until: The earliest useful time to run it again, or None if any time will do.
        metrics: The metrics that are available already.
    """

    def __init__(
        self,
        message: str,
        *,
        until: datetime | None = None,
        metrics: Mapping[str, float | int | str | list[int]] | None = None,
    ) -> None:
        super().__init__(message)
        self.until = until
        self.metrics = dict(metrics or {})
