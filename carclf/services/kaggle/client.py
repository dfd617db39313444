"""Client for a Kaggle competition: data files, submissions and scores."""

import functools
from dataclasses import dataclass
from http import HTTPStatus
from math import isfinite
from pathlib import Path
from typing import Any

import requests

from carclf.errors import ConfigError, DataError
from carclf.services.kaggle.archive_download import download_archive
from carclf.services.kaggle.calls import ApiCalls, parse_file, require_type
from carclf.services.kaggle.credentials import create_client, find_credentials
from carclf.services.kaggle.retries import RetryPolicy


@dataclass(frozen=True)
class SubmissionState:
    """A submission on Kaggle; the status is PENDING, COMPLETE or ERROR."""

    ref: int
    status: str
    public_score: float | None
    error: str
    description: str


@dataclass(frozen=True)
class SubmissionLimits:
    """The number of valid submissions of the account's team: today (UTC), ever, and still allowed today.

    ``limited_by_total`` is True if the competition's limit for its whole duration is lower than that of the day.
    """

    num_today: int
    num_total: int
    num_allowed_now: int
    limited_by_total: bool


@dataclass(frozen=True)
class CompetitionDetails:
    """What Kaggle reports about a competition; a server without this call reports nothing.

    ``evaluation_metric`` is Kaggle's free text, such as "Categorization Accuracy". A passed deadline is no obstacle:
    most competitions accept late submissions, and Kaggle sets ``submissions_disabled`` for the others.
    """

    title: str = ""
    evaluation_metric: str = ""
    is_notebooks_only: bool = False
    submissions_disabled: bool = False

    @property
    def submission_obstacle(self) -> str:
        """The reason why no file can be submitted; empty if there is none."""
        if self.is_notebooks_only:
            return "the competition accepts submissions from Kaggle notebooks only"
        return "the competition accepts no submissions any more" if self.submissions_disabled else ""


class KaggleClient:
    """A competition on Kaggle.

    All methods raise ConfigError, ServiceError or DataError, never the vendor's errors; ``create_submission`` also
    raises UnknownOutcomeError.
    """

    def __init__(
        self, competition: str, *, max_attempts: int = 5, backoff_seconds: float = 2.0,
        read_timeout_seconds: float = 60.0,
    ) -> None:
        self.competition = competition
        self._read_timeout_seconds = read_timeout_seconds
        credentials = find_credentials()
        http = create_client(credentials, read_timeout_seconds=read_timeout_seconds)
        hints: dict[int, str] = {
            HTTPStatus.FORBIDDEN: "Join the competition and accept its rules at https://www.kaggle.com/competitions/"
                                  f"{competition}/rules with the account of the token.",
            HTTPStatus.NOT_FOUND: f"Check the slug: the setting data.source is {competition!r}.",
        }  # fmt: skip
        self._retries = RetryPolicy(credentials.source, max_attempts, backoff_seconds, hints)
        self._calls = ApiCalls(http, "competitions", {"competition_name": competition}, self._retries)

    def check_access(self) -> int:
        """Return the number of data files; raise ConfigError if the account may not download them."""
        num_files = len(self.list_files())
        # Kaggle lists the files to everyone; only a download shows whether the rules are accepted.
        self._retries.call("start a download", lambda: self._request_archive({}).close())
        return num_files

    def details(self) -> CompetitionDetails:
        """Return what Kaggle reports about the competition."""
        try:
            return self._calls.call("read the competition", "GetCompetition", _parse_details)
        except ConfigError:  # a server without this call; other calls report missing permissions
            return CompetitionDetails()

    def list_files(self) -> list[tuple[str, int, str]]:
        """Return name, size in bytes and creation date of each data file. The list changes when the data change."""
        return sorted(self._calls.pages("list the data files", "ListDataFiles",
                                        lambda page: [parse_file(file) for file in page.files or []]))

    def download(self, folder: Path, *, timeout_seconds: int) -> Path:
        """Download the data to ``<competition>.zip`` in the folder, and check each member of the archive."""
        path = folder / f"{self.competition}.zip"
        return download_archive(path, self._request_archive, self._retries, timeout_seconds=timeout_seconds)

    def submission_limits(self) -> SubmissionLimits | None:
        """Return Kaggle's numbers of submissions; None if it does not report them."""
        try:
            limits = self._calls.call("read the submission limits", "GetSubmissionLimits", _parse_limits)
        except ConfigError:  # a server without this call
            return None
        # All three are zero before the first submission, when the account has not joined a team yet, or from a server
        # that does not report them.
        return limits if limits.num_allowed_now or limits.num_today or limits.num_total else None

    def list_submissions(self) -> list[SubmissionState]:
        """Return the submissions that Kaggle lists, the newest first. A new one may be missing for some time."""
        return list(self._calls.pages("list the submissions", "ListSubmissions",
                                      lambda page: [_parse_submission(entry) for entry in page.submissions or []]))

    def find_submission(self, fingerprint: str, *, ref: int = 0) -> SubmissionState | None:
        """Return the newest submission with the fingerprint in its description, or None.

        A submission that Kaggle could not grade is returned only if there is no other. With ``ref``, also find the
        submission with that number if Kaggle does not list it yet.
        """
        listed = select_submission(self.list_submissions(), fingerprint)
        return listed or (self.read_submission(ref, fingerprint) if ref else None)

    def read_submission(self, ref: int, fingerprint: str) -> SubmissionState | None:
        """Return the submission with this number; None if it is missing or has another fingerprint."""
        try:
            state = self._calls.call(f"read submission {ref}", "GetSubmission", _parse_submission, ref=ref)
        except ConfigError:  # on another server, the number may be missing or belong to another file
            return None
        return state if fingerprint in state.description else None

    def upload(self, path: Path) -> str:
        """Upload a file and return the token with which it can be submitted. An upload does not count."""
        return self._retries.call("upload the submission", functools.partial(self._upload, path))

    def create_submission(self, token: str, description: str) -> int:
        """Submit an uploaded file and return the submission's number. The request is not repeated.

        Raise ConfigError if Kaggle rejected it, UnknownOutcomeError if Kaggle may have counted it.
        """
        return self._calls.create("submit", "CreateSubmission", _parse_created, blob_file_tokens=token,
                                  submission_description=description)

    def leaderboard_rank(self, score: float, *, higher_is_better: bool = True) -> int | None:
        """Return the rank of a score on the public leaderboard; None if the leaderboard is empty.

        If the leaderboard has different scores, their order decides which is better, not ``higher_is_better``.
        """
        entries = self._calls.pages("read the leaderboard", "GetLeaderboard",
                                    lambda page: [_parse_score(entry.score) for entry in page.submissions or []])
        scores = [score for score in entries if score is not None]
        if not scores:
            return None
        # The best score comes first, so the order shows whether high or low is better.
        sign = 1 if (scores[0] > scores[-1] if scores[0] != scores[-1] else higher_is_better) else -1
        return 1 + sum(sign * other > sign * score for other in scores)

    def _upload(self, path: Path) -> str:
        try:
            data = path.read_bytes()
            modified_seconds = int(path.stat().st_mtime)
        except OSError as error:
            raise ConfigError(f"The submission {path} cannot be read: {error}.") from error
        token, url = self._calls.invoke("StartSubmissionUpload", _parse_upload, file_name=path.name,
                                        content_length=len(data), last_modified_epoch_seconds=modified_seconds)
        self._calls.put(url, data, self._read_timeout_seconds)
        return token

    def _request_archive(self, headers: dict[str, str]) -> requests.Response:
        return self._calls.request_archive("DownloadDataFiles", headers)


def select_submission(submissions: list[SubmissionState], fingerprint: str) -> SubmissionState | None:
    """Return the first submission with the fingerprint, or None; one that was not graded only if there is no other."""
    matches = [state for state in submissions if fingerprint in state.description]
    return next((state for state in matches if state.status != "ERROR"), matches[0] if matches else None)


def ungraded_error(state: SubmissionState, competition: str, file: str, fingerprint: str) -> DataError:
    """Return the error for an ungraded submission; a later submission with its fingerprint takes precedence."""
    return DataError(f"Kaggle could not score submission {state.ref}: {state.error}. It is not sent again "
                     f"automatically. To continue, send {file} by hand at "
                     f"https://www.kaggle.com/competitions/{competition} with {fingerprint} in the description, and "
                     "run this stage again.")


def _parse_submission(entry: Any) -> SubmissionState:
    return SubmissionState(require_type(int, entry.ref), entry.status.name, _parse_score(entry.public_score),
                           str(entry.error_description or ""), str(entry.description or ""))


def _parse_details(competition: Any) -> CompetitionDetails:
    return CompetitionDetails(str(competition.title or ""), str(competition.evaluation_metric or ""),
                              require_type(bool, competition.is_kernels_submissions_only),
                              require_type(bool, competition.submissions_disabled))


def _parse_limits(limits: Any) -> SubmissionLimits:
    return SubmissionLimits(require_type(int, limits.num_today), require_type(int, limits.num_total),
                            require_type(int, limits.num_allowed_now), require_type(bool, limits.limited_by_total))


def _parse_upload(upload: Any) -> tuple[str, str]:
    return require_type(str, upload.token), require_type(str, upload.create_url)


def _parse_created(response: Any) -> int:
    if require_type(int, response.ref) <= 0:
        raise ValueError(f"there is no submission number in {response.message!r:.200}")
    return int(response.ref)


def _parse_score(text: object) -> float | None:
    # Kaggle's scores are strings; "" means that there is no score yet.
    try:
        number = float(require_type(str, text or ""))
    except ValueError:
        return None
    return number if isfinite(number) else None
