"""What the parts of the demo server share: errors, uploads, times and pages in Kaggle's format."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

T = TypeVar("T")


class ApiError(Exception):
    """A response with an error status and Kaggle's JSON."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass
class Upload:
    """An announced file; ``data`` is None until the upload arrives."""

    file_name: str
    data: bytes | None = None


def format_time(seconds: float) -> str:
    """Return a time in Kaggle's format."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.0000000Z")


def page(entries: list[T], request: dict[str, Any]) -> tuple[list[T], str]:
    """Return the page of a request and the token of the next one; empty if it is the last."""
    size = int(request.get("pageSize") or 20)
    start = int(request.get("pageToken") or (max(int(request.get("page") or 1), 1) - 1) * size)
    return entries[start : start + size], str(start + size) if start + size < len(entries) else ""
