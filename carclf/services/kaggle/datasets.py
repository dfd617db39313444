"""Client for a dataset on Kaggle: its versions, files and archive."""

from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from carclf.errors import ConfigError, DataError, ServiceError
from carclf.services.kaggle.archive_download import download_archive
from carclf.services.kaggle.calls import ApiCalls, parse_file, require_type
from carclf.services.kaggle.credentials import create_client, find_credentials
from carclf.services.kaggle.retries import RetryPolicy

READY = "READY"
UNUSABLE = ("FAILED", "DELETED")


@dataclass(frozen=True)
class ExtensionSummary:
    """The files of a dataset with one extension, such as ``.jpg``: their number and their size in bytes."""

    extension: str
    num_files: int
    num_bytes: int


class DatasetClient:
    """A dataset on Kaggle, ``owner/slug``. All methods raise ConfigError, ServiceError or DataError."""

    def __init__(
        self, name: str, *, max_attempts: int = 5, backoff_seconds: float = 2.0, read_timeout_seconds: float = 60.0
    ) -> None:
        self.name = name
        owner, _, self._slug = name.partition("/")
        credentials = find_credentials()
        http = create_client(credentials, read_timeout_seconds=read_timeout_seconds)
        page = f"https://www.kaggle.com/datasets/{name}"
        hints: dict[int, str] = {
            HTTPStatus.FORBIDDEN: f"The account of the token may not read {page}: ask its owner for access.",
            HTTPStatus.NOT_FOUND: f"Check data.source: is there a dataset {page} with this version?",
        }
        retries = RetryPolicy(credentials.source, max_attempts, backoff_seconds, hints)
        self._calls = ApiCalls(http, "datasets", {"owner_slug": owner, "dataset_slug": self._slug}, retries)

    def resolve(self, version: int) -> int:
        """Return the version's number; 0 is the newest one.

        Raise ServiceError while Kaggle processes the newest version, DataError if it failed or was deleted, ConfigError
        if there is no such version.
        """
        newest, older_statuses = self._calls.call(f"read {self.name}", "GetDataset", _parse_versions)
        if version > newest:
            raise ConfigError(f"{self.name} has no version {version}: the newest is {newest}. Change data.source.")
        number = version or newest
        if number == newest:
            status = self._calls.call(f"read the status of {self.name}", "GetDatasetStatus", _parse_status)
        else:  # Kaggle reports no status of a version that it does not list
            status = older_statuses.get(number, READY) or READY
        self._require_ready(number, status)
        return number

    def list_files(self, version: int) -> list[tuple[str, int, str]]:
        """Return name, size in bytes and creation date of each file; a dataset of images may have thousands of pages.

        ``list_extensions`` is one call.
        """
        return sorted(self._calls.pages(f"list the files of {self.name}", "ListDatasetFiles",
                                        lambda page: [parse_file(file) for file in page.dataset_files or []],
                                        dataset_version_number=version))

    def list_extensions(self, version: int) -> list[ExtensionSummary]:
        """Return the numbers and sizes of a version's files by extension, to show before a download what it contains.

        Return none for an older version, because Kaggle summarizes only the newest one, or if Kaggle has no summary.
        """
        if version != self._calls.call(f"read {self.name}", "GetDataset", _parse_versions)[0]:
            return []
        try:
            return self._calls.call(f"summarize the files of {self.name}", "GetDatasetFilesSummary", _parse_extensions)
        except ConfigError:  # a server without this call
            return []

    def download(self, version: int, folder: Path, *, timeout_seconds: int) -> Path:
        """Download a version to ``<slug>.zip`` in the folder, and check each member of the archive."""

        def request(headers: dict[str, str]) -> Any:
            return self._calls.request_archive("DownloadDataset", headers, dataset_version_number=version)

        path = folder / f"{self._slug}.zip"
        return download_archive(path, request, self._calls.retries, timeout_seconds=timeout_seconds)

    def _require_ready(self, version: int, status: str) -> None:
        name = f"Version {version} of {self.name}"
        if status in UNUSABLE:
            raise DataError(f"{name} is {status} on Kaggle. Choose another version: "
                            f"data.source=kaggle://{self.name}/VERSION.")
        if status != READY:
            raise ServiceError(f"{name} is not ready: Kaggle is processing it ({status}). Try again later.")


def _parse_extensions(summary: Any) -> list[ExtensionSummary]:
    """Parse a summary of files by extension."""
    types = summary.file_summary_info.file_types if summary.file_summary_info else None
    return [_parse_extension(entry) for entry in types or []]


def _parse_extension(entry: Any) -> ExtensionSummary:
    extension = require_type(str, entry.extension).lstrip(".").lower()
    return ExtensionSummary(f".{extension}", require_type(int, entry.file_count), require_type(int, entry.total_size))


def _parse_versions(dataset: Any) -> tuple[int, dict[int, str]]:
    """Return the newest version's number, and the statuses of the listed versions."""
    newest = require_type(int, dataset.current_version_number)
    if newest < 1:
        raise ValueError(f"{newest} is not the number of a version")
    return newest, {require_type(int, entry.version_number): str(entry.status or "").upper()
                    for entry in dataset.versions or []}


def _parse_status(response: Any) -> str:
    return str(response.status.name)
