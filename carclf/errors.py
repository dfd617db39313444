"""Exceptions that carclf raises deliberately. The exit status determines whether Airflow retries."""

from collections.abc import Mapping
from datetime import datetime
from typing import ClassVar


class CarclfError(Exception):
    """Base class. The message states what happened, what was expected and how to fix it."""

    exit_status: ClassVar[int] = 1


class DataError(CarclfError):
    """The data cannot be used. Retrying with the same data does not help."""

    exit_status = 65


class DamagedArtifactError(DataError):
    """An artifact in the store is damaged or incomplete.

    ``path`` is its folder and its key, as in splits/ab12; ``problem`` is the message without the advice.
    """

    def __init__(self, path: str, problem: str, advice: str = "") -> None:
        super().__init__(f"{problem} {advice}".rstrip())
        self.path = path
        self.problem = problem


class QualityError(CarclfError):
    """The model or its training failed a quality check."""

    exit_status = 65


class ConfigError(CarclfError):
    """A setting, a credential or a permission is wrong. Retrying without a fix does not help."""

    exit_status = 78


class NotFoundError(ConfigError):
    """The store does not exist, or it does not contain the run, model, champion or experiment that is needed."""

    exit_status = 66


class ObjectAccessError(ConfigError):
    """An object of a bucket may not be read: its permissions, its encryption key or its storage class prevent it."""


class ServiceError(CarclfError):
    """An external service failed temporarily. A later retry may help."""

    exit_status = 75


class SourceChangedError(ServiceError):
    """A file of the source was changed or removed after it was listed."""


class StageSkipped(Exception):
    """A stage has nothing to do, so this stage and those after it are skipped. The message is the reason."""


class StageWaiting(Exception):
    """A stage is waiting for an external event and must be run again. This is not an error.

    Attributes:
        until: The earliest time at which another run is useful, or None for any time.
        metrics: The metrics that are available already.
    """

    def __init__(
        self,
        message: str,
        *,
        until: datetime | None = None,
        metrics: Mapping[str, float | int | str | list[str]] | None = None,
    ) -> None:
        super().__init__(message)
        self.until = until
        self.metrics = dict(metrics or {})
