"""Kaggle: the competition's files, our submissions and their scores."""

import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from carclf.errors import ConfigError, DataError, ServiceError
from carclf.services.kaggle.archive_download import download_archive
from carclf.services.kaggle.credentials import CONNECT_TIMEOUT_SECONDS, create_client, find_credentials
from carclf.services.kaggle.retries import (
    RETRYABLE_STATUSES,
    TRANSIENT_ERRORS,
    RetryPolicy,
    TransientError,
    http_status,
    submission_limit_error,
)

__all__ = ["KaggleClient", "SubmissionState", "ungraded_error"]

PAGE_SIZE = 100
MAX_PAGES = 1000
# What the last look at the list must leave of a claim: the call that submits, connecting and going silent included.
CALL_SECONDS = 90.0


@dataclass(frozen=True)
class SubmissionState:
    """A submission as Kaggle shows it; the status is PENDING, COMPLETE or ERROR."""

    ref: int
    status: str
    public_score: float | None
    error: str
    description: str


class KaggleClient:
    """One competition. Raises ConfigError, ServiceError, DataError and NotYet, never the vendor's errors."""

    def __init__(
        self, competition: str, *, tries: int = 5, backoff_seconds: float = 2.0, stall_seconds: float = 60.0,
        recheck_seconds: float = 15.0,
    ) -> None:
        self.competition = competition
        self.submission_uncertain = False  # whether a submission may have been sent of which Kaggle's list shows nothing yet
        self._stall_seconds, self._doubt_seconds = stall_seconds, recheck_seconds
        credentials = find_credentials()
        self._http = create_client(credentials, stall_seconds=stall_seconds)
        self._api = self._http.competitions.competition_api_client
        self._retries = RetryPolicy(competition, credentials.source, tries, backoff_seconds)

    def check(self) -> int:
        """The number of data files; ConfigError where they may not be downloaded."""
        num_files = len(self.listing())
        # Kaggle lists the files to anyone; only a download shows whether the rules are accepted.
        self._retries.call("start a download", lambda: self._ask_archive({}).close())
        return num_files

    def listing(self) -> list[tuple[str, int, str]]:
        """Name, size in bytes and date of each data file: they change when the competition's data do."""
        from kagglesdk.competitions.types import competition_api_service as api

        files = self._pages("list the data files", self._api.list_data_files, api.ApiListDataFilesRequest, "files")
        return sorted((file.name, file.total_bytes, str(file.creation_date or "")) for file in files)

    def download(self, folder: Path, *, timeout_seconds: int) -> Path:
        """``<competition>.zip`` in the folder, fetched anew and checked member by member."""
        path = folder / f"{self.competition}.zip"
        return download_archive(path, self._ask_archive, self._retries, timeout_seconds=timeout_seconds)

    def remaining_submissions(self) -> int | None:
        """How many submissions Kaggle still takes today; None where it does not tell."""
        from kagglesdk.competitions.types import competition_api_service as api

        request = api.ApiGetSubmissionLimitsRequest()
        request.competition_name = self.competition
        limits = self._call("ask for the submission limits", self._api.get_submission_limits, request)
        # All four are zero for who has not joined a team yet, that is before the first submission.
        if not (limits.num_allowed_now or limits.num_today or limits.num_total):
            return None
        return int(limits.num_allowed_now)

    def find_submission(self, fingerprint: str) -> SubmissionState | None:
        """The submission whose description holds the fingerprint, however long ago it was sent.

        One that Kaggle could not grade only where there is no other.
        """
        from kagglesdk.competitions.types import competition_api_service as api

        pages = self._pages("list the submissions", self._api.list_submissions, api.ApiListSubmissionsRequest,
                            "submissions")  # fmt: skip
        found = (_state(entry) for entry in pages if fingerprint in (entry.description or ""))
        ungraded = None
        for state in found:
            if state.status != "ERROR":
                return state
            ungraded = ungraded or state
        return ungraded

    def submit(
        self, path: Path, *, description: str, fingerprint: str, before_sending: Callable[[], float] = lambda: math.inf
    ) -> SubmissionState:
        """Send the file unless a submission with this fingerprint is there; it counts exactly once.

        ``before_sending`` is called before each send and may raise; it says until when (``time.monotonic``) nobody else
        sends. NotYet where today's limit is reached. Where it raises, ``submission_uncertain`` tells whether something was sent.
        """
        if found := self.find_submission(fingerprint):
            return found
        self._require_quota()
        text = description if fingerprint in description else f"{description} {fingerprint}"
        for attempt in range(1, self._retries.tries + 1):
            token = self._retries.call("upload the submission", functools.partial(self._upload, path))
            # An upload takes its time: meanwhile another process may have sent the same.
            if found := self._look_alone(fingerprint, before_sending):
                return found
            try:
                self.submission_uncertain = True
                return SubmissionState(self._create(token, text), "PENDING", None, "", text)
            except TRANSIENT_ERRORS as fault:
                self.submission_uncertain = not 400 <= http_status(fault) < 500
                self._retries.check("submit", fault)
                doubt = fault
            # The answer may be lost and the submission counted: look before sending again.
            if found := self._look_again(fingerprint, doubt, attempt):
                return found
        raise AssertionError("_look_again() raises after the last try")

    def rank(self, score: float) -> int | None:
        """The place that the score would take on the public leaderboard; None while that is empty."""
        from kagglesdk.competitions.types import competition_api_service as api

        pages = self._pages("read the leaderboard", self._api.get_leaderboard, api.ApiGetLeaderboardRequest,
                            "submissions")  # fmt: skip
        scores = [number for entry in pages if (number := _number(entry.score)) is not None]
        if not scores:
            return None
        # The best comes first: so the order tells whether high or low is good.
        sign = 1 if scores[0] >= scores[-1] else -1
        return 1 + sum(sign * other > sign * score for other in scores)

    def _require_quota(self) -> None:
        if self.remaining_submissions() == 0:
            raise submission_limit_error(f"Kaggle takes no more submissions to {self.competition} today")

    def _look_alone(self, fingerprint: str, before_sending: Callable[[], float]) -> SubmissionState | None:
        """The submission, looked for while nobody else sends, and with time left to send it if it is not there."""
        for _ in range(self._retries.tries):
            until = before_sending()
            if (found := self.find_submission(fingerprint)) or time.monotonic() + CALL_SECONDS < until:
                return found
        raise ServiceError("Kaggle's list of submissions takes too long to be sure that nobody else is sending the "
                           "same. Nothing was sent: try again later.")

    def _look_again(self, fingerprint: str, doubt: Exception, attempt: int) -> SubmissionState | None:
        """The submission after a doubtful answer; None once it was waited for and may be sent again."""
        # A submission may show up in the list a moment after it was counted; what was turned away did not count.
        doubtful = http_status(doubt) not in RETRYABLE_STATUSES
        for seconds in (0.0, self._doubt_seconds) if doubtful else ():
            time.sleep(seconds)
            if found := self.find_submission(fingerprint):
                return found
        self.submission_uncertain = False
        self._retries.pause("submit", doubt, attempt)
        return None

    def _upload(self, path: Path) -> str:
        from kagglesdk.competitions.types import competition_api_service as api

        try:
            data, modified = path.read_bytes(), int(path.stat().st_mtime)
        except OSError as error:
            raise ConfigError(f"The submission {path} cannot be read: {error}.") from error
        request = api.ApiStartSubmissionUploadRequest()
        request.competition_name, request.file_name = self.competition, path.name
        request.content_length, request.last_modified_epoch_seconds = len(data), modified
        answer = self._api.start_submission_upload(request)
        # The package's own upload answers a refusal with a message and ref 0; a status can be judged.
        put = requests.put(answer.create_url, data=data, timeout=(CONNECT_TIMEOUT_SECONDS, self._stall_seconds))
        if put.status_code not in (200, 201):
            raise TransientError(f"the upload was answered with {put.status_code}")
        return str(answer.token)

    def _create(self, token: str, description: str) -> int:
        from kagglesdk.competitions.types import competition_api_service as api

        request = api.ApiCreateSubmissionRequest()
        request.competition_name, request.blob_file_tokens = self.competition, token
        request.submission_description = description
        answer = self._api.create_submission(request)
        if not answer.ref:
            raise TransientError(f"Kaggle named no submission: {answer.message!r}")
        return int(answer.ref)

    def _ask_archive(self, headers: dict[str, str]) -> requests.Response:
        from kagglesdk.competitions.types import competition_api_service as api

        request = api.ApiDownloadDataFilesRequest()
        request.competition_name = self.competition
        session = self._http.http_client()._session
        # The SDK takes no headers for one call; its session's go along, through the redirect too.
        before = session.headers.copy()
        session.headers.update(headers)
        try:
            response: requests.Response = self._api.download_data_files(request)
        finally:
            session.headers = before
        return response

    def _call(self, what: str, method: Callable[[Any], Any], request: Any) -> Any:
        return self._retries.call(what, functools.partial(method, request))

    def _pages(self, what: str, method: Callable[[Any], Any], request_type: type[Any], field: str) -> Iterator[Any]:
        token = ""
        for _ in range(MAX_PAGES):
            request = request_type()
            request.competition_name, request.page_size = self.competition, PAGE_SIZE
            request.page_token = token
            answer = self._call(what, method, request)
            yield from getattr(answer, field) or []
            if not answer.next_page_token or answer.next_page_token == token:
                return
            token = answer.next_page_token


def ungraded_error(state: SubmissionState, competition: str, file: str, mark: str) -> DataError:
    """The error of a submission that Kaggle could not grade, and how to go on: another with its mark replaces it."""
    return DataError(
        f"Kaggle could not score submission {state.ref}: {state.error}. It is not sent again by itself. To go on, send "
        f"{file} by hand at https://www.kaggle.com/competitions/{competition} with {mark} in the description, and run "
        "this stage again."
    )


def _state(found: Any) -> SubmissionState:
    return SubmissionState(
        int(found.ref), found.status.name, _number(found.public_score), found.error_description or "",
        found.description or "",
    )  # fmt: skip


def _number(text: str) -> float | None:
    # Kaggle's scores are strings, "" while there is none.
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
