"""Client for a Kaggle competition: data files, submissions that count exactly once, and scores."""

import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import requests

from carclf.errors import ConfigError, DataError, ServiceError
from carclf.services.kaggle.addresses import require_public_address
from carclf.services.kaggle.archive_download import download_archive
from carclf.services.kaggle.credentials import CONNECT_TIMEOUT_SECONDS, create_client, find_credentials
from carclf.services.kaggle.retries import (
    RETRYABLE_STATUSES,
    TRANSIENT_ERRORS,
    RetryPolicy,
    TransientError,
    http_status,
    is_client_error,
    submission_limit_error,
)

PAGE_SIZE = 100
MAX_PAGES = 1000
# Minimum remaining time of the lease when the list of submissions has been read: the time to submit, with timeouts.
CALL_SECONDS = 90.0


@dataclass(frozen=True)
class SubmissionState:
    """A submission on Kaggle; the status is PENDING, COMPLETE or ERROR."""

    ref: int
    status: str
    public_score: float | None
    error: str
    description: str


class KaggleClient:
    """A competition on Kaggle.

    All methods raise ConfigError, ServiceError, DataError or StageWaiting, never the vendor's errors.
    """

    def __init__(
        self, competition: str, *, max_attempts: int = 5, backoff_seconds: float = 2.0,
        read_timeout_seconds: float = 60.0, recheck_seconds: float = 15.0,
    ) -> None:
        self.competition = competition
        self.submission_uncertain = False  # Kaggle may have received a submission that it does not list yet
        self._read_timeout_seconds = read_timeout_seconds
        self._recheck_seconds = recheck_seconds
        credentials = find_credentials()
        self._http = create_client(credentials, read_timeout_seconds=read_timeout_seconds)
        self._api = self._http.competitions.competition_api_client
        self._retries = RetryPolicy(competition, credentials.source, max_attempts, backoff_seconds)

    def check_access(self) -> int:
        """Return the number of data files; raise ConfigError if the account may not download them."""
        num_files = len(self.list_files())
        # Kaggle lists the files to everyone; only a download shows whether the rules are accepted.
        self._retries.call("start a download", lambda: self._request_archive({}).close())
        return num_files

    def list_files(self) -> list[tuple[str, int, str]]:
        """Return name, size in bytes and creation date of each data file. The list changes when the data change."""
        files = self._pages("list the data files", self._api.list_data_files, "ListDataFiles", "files")
        return sorted((file.name, file.total_bytes, str(file.creation_date or "")) for file in files)

    def download(self, folder: Path, *, timeout_seconds: int) -> Path:
        """Download the data to ``<competition>.zip`` in the folder, and check each member of the archive."""
        path = folder / f"{self.competition}.zip"
        return download_archive(path, self._request_archive, self._retries, timeout_seconds=timeout_seconds)

    def remaining_submissions(self) -> int | None:
        """Return how many submissions Kaggle still accepts today; None if it does not report a limit."""
        limits = self._call("read the submission limits", self._api.get_submission_limits, "GetSubmissionLimits")
        # All three are zero before the first submission, when the account has not joined a team yet.
        if not (limits.num_allowed_now or limits.num_today or limits.num_total):
            return None
        return int(limits.num_allowed_now)

    def find_submission(self, fingerprint: str) -> SubmissionState | None:
        """Return the newest submission with the fingerprint in its description, or None.

        A submission that Kaggle could not grade is returned only if there is no other.
        """
        entries = self._pages("list the submissions", self._api.list_submissions, "ListSubmissions", "submissions")
        ungraded = None
        for entry in entries:
            if fingerprint not in (entry.description or ""):
                continue
            state = _parse_submission(entry)
            if state.status != "ERROR":
                return state
            ungraded = ungraded or state
        return ungraded

    def submit(
        self, path: Path, *, description: str, fingerprint: str, before_sending: Callable[[], float] = lambda: math.inf
    ) -> SubmissionState:
        """Submit the file unless a submission with this fingerprint exists. It counts exactly once.

        The fingerprint identifies the content of the file; it is appended to the description if missing there.
        ``before_sending`` is called before each submission; it acquires a lease and returns its end
        (``time.monotonic``), or raises. Raise StageWaiting if today's limit is reached, CarclfError if the submission
        failed, with ``submission_uncertain`` set if Kaggle may have counted it.
        """
        if existing := self.find_submission(fingerprint):
            return existing
        if self.remaining_submissions() == 0:
            raise submission_limit_error(f"Kaggle accepts no more submissions to {self.competition} today")
        text = description if fingerprint in description else f"{description} {fingerprint}"
        for attempt in range(1, self._retries.max_attempts + 1):
            token = self._retries.call("upload the submission", functools.partial(self._upload, path))
            # Another process may have submitted the same file during the upload.
            if existing := self._find_under_lease(fingerprint, before_sending):
                return existing
            try:
                self.submission_uncertain = True
                return SubmissionState(self._create(token, text), "PENDING", None, "", text)
            except TRANSIENT_ERRORS as error:
                self.submission_uncertain = not is_client_error(http_status(error))
                self._retries.raise_if_permanent("submit", error)
                failure = error
            # Kaggle may have counted a submission whose response was lost: search for it before sending another.
            if existing := self._find_after_failure(fingerprint, failure, attempt):
                return existing
        raise AssertionError("_find_after_failure() raises after the last attempt")

    def leaderboard_rank(self, score: float) -> int | None:
        """Return the rank of a score on the public leaderboard; None if the leaderboard is empty."""
        entries = self._pages("read the leaderboard", self._api.get_leaderboard, "GetLeaderboard", "submissions")
        scores = [number for entry in entries if (number := _parse_number(entry.score)) is not None]
        if not scores:
            return None
        # The best score comes first, so the order shows whether high or low is better.
        sign = 1 if scores[0] >= scores[-1] else -1
        return 1 + sum(sign * other > sign * score for other in scores)

    def _find_under_lease(self, fingerprint: str, before_sending: Callable[[], float]) -> SubmissionState | None:
        """Acquire the lease and search for the submission; return None if it is missing and there is time to submit."""
        for _ in range(self._retries.max_attempts):
            until = before_sending()
            existing = self.find_submission(fingerprint)
            if existing or time.monotonic() + CALL_SECONDS < until:
                return existing
        raise ServiceError("Reading Kaggle's list of submissions takes too long to rule out that another process "
                           "submits the same file. Nothing was sent: try again later.")

    def _find_after_failure(self, fingerprint: str, failure: Exception, attempt: int) -> SubmissionState | None:
        """Search for the submission after an uncertain failure. Return None if it can be sent again."""
        # A counted submission may appear in the list with a delay; a rejected one does not count.
        is_uncertain = http_status(failure) not in RETRYABLE_STATUSES
        for seconds in (0.0, self._recheck_seconds) if is_uncertain else ():
            time.sleep(seconds)
            if existing := self.find_submission(fingerprint):
                return existing
        self.submission_uncertain = False
        self._retries.wait_before_retry("submit", failure, attempt)
        return None

    def _upload(self, path: Path) -> str:
        try:
            data = path.read_bytes()
            modified_seconds = int(path.stat().st_mtime)
        except OSError as error:
            raise ConfigError(f"The submission {path} cannot be read: {error}.") from error
        request = self._request("StartSubmissionUpload", file_name=path.name, content_length=len(data),
                                last_modified_epoch_seconds=modified_seconds)
        upload = self._api.start_submission_upload(request)
        # The SDK's upload hides the status of a failure, on which a retry depends.
        timeout = (CONNECT_TIMEOUT_SECONDS, self._read_timeout_seconds)
        require_public_address(upload.create_url, self._http.http_client()._endpoint)
        response = requests.put(upload.create_url, data=data, timeout=timeout, allow_redirects=False)
        if response.status_code not in (HTTPStatus.OK, HTTPStatus.CREATED):
            raise TransientError(f"the upload failed with status {response.status_code}")
        return str(upload.token)

    def _create(self, token: str, description: str) -> int:
        request = self._request("CreateSubmission", blob_file_tokens=token, submission_description=description)
        response = self._api.create_submission(request)
        if not response.ref:
            raise TransientError(f"Kaggle's response has no submission number: {response.message!r}")
        return int(response.ref)

    def _request_archive(self, headers: dict[str, str]) -> requests.Response:
        session = self._http.http_client()._session
        # The SDK accepts no headers for a single call; those of its session survive the redirect.
        session_headers = session.headers.copy()
        session.headers.update(headers)
        try:
            response: requests.Response = self._api.download_data_files(self._request("DownloadDataFiles"))
        finally:
            session.headers = session_headers
        return response

    def _call(self, action: str, method: Callable[[Any], Any], kind: str, **fields: Any) -> Any:
        return self._retries.call(action, lambda: method(self._request(kind, **fields)))

    def _request(self, kind: str, **fields: Any) -> Any:
        """Return a request of the SDK with these fields."""
        from kagglesdk.competitions.types import competition_api_service

        request = getattr(competition_api_service, f"Api{kind}Request")()
        for name, value in ({"competition_name": self.competition} | fields).items():
            setattr(request, name, value)
        return request

    def _pages(self, action: str, method: Callable[[Any], Any], kind: str, field: str) -> Iterator[Any]:
        token = ""
        for _ in range(MAX_PAGES):
            page = self._call(action, method, kind, page_size=PAGE_SIZE, page_token=token)
            yield from getattr(page, field) or []
            if not page.next_page_token or page.next_page_token == token:
                return
            token = page.next_page_token


def ungraded_error(state: SubmissionState, competition: str, file: str, fingerprint: str) -> DataError:
    """Return the error for an ungraded submission; a later submission with its fingerprint takes precedence."""
    return DataError(f"Kaggle could not score submission {state.ref}: {state.error}. It is not sent again "
                     f"automatically. To continue, send {file} by hand at "
                     f"https://www.kaggle.com/competitions/{competition} with {fingerprint} in the description, and "
                     "run this stage again.")


def _parse_submission(entry: Any) -> SubmissionState:
    return SubmissionState(int(entry.ref), entry.status.name, _parse_number(entry.public_score),
                           entry.error_description or "", entry.description or "")


def _parse_number(text: str) -> float | None:
    # Kaggle's scores are strings; "" means that there is no score yet.
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
