"""Submit a file once: at most one submission of it is ever counted, whatever fails and however late Kaggle lists it."""

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Protocol

from pydantic import AwareDatetime, BaseModel

from carclf.errors import ConfigError, ServiceError, StageSkipped, StageWaiting
from carclf.services.kaggle.calls import UnknownOutcomeError
from carclf.services.kaggle.client import KaggleClient, SubmissionLimits, SubmissionState, select_submission
from carclf.services.kaggle.retries import http_status

RESET_MARGIN = timedelta(minutes=5)  # clocks differ
MAX_SENDING_DELAY = timedelta(minutes=1)  # from the time in the claim
# A request that timed out may still be executed: before this time, Kaggle's count proves nothing.
SETTLING_TIME = timedelta(minutes=15)
MIN_PAUSE = timedelta(minutes=1)
MAX_PAUSE = timedelta(hours=2)


class Attempt(BaseModel, frozen=True):
    """An attempt to submit a file, recorded before the request.

    ``num_counted`` is Kaggle's number of valid submissions before the attempt (None: unknown), ``num_listed`` how many
    of them it listed, ``ref`` the number in its response (0: the outcome is unknown).
    """

    sent_at: AwareDatetime
    num_counted: int | None
    num_listed: int
    ref: int = 0


class Claim(Protocol):
    """The record of the latest attempt to submit a file, shared by all processes."""

    def read(self) -> Attempt | None:
        """Return the attempt; None if there was none or if it certainly failed."""

    def replace(self, attempt: Attempt | None) -> bool:
        """Replace what this object has read or written last; return False if another process was faster."""


@dataclass(frozen=True)
class SubmissionFile:
    """A file to submit; the fingerprint identifies its content and is part of the description."""

    path: Path
    fingerprint: str
    description: str


def submit_once(kaggle: KaggleClient, file: SubmissionFile, claim: Claim, max_per_day: int = 0) -> SubmissionState:
    """Submit the file unless it was submitted before.

    Only the process whose attempt is in the claim sends the file. If the outcome of an attempt is unknown, the file is
    sent again only when Kaggle's count proves that the attempt did not arrive. With ``max_per_day``, nothing is sent
    after Kaggle has counted so many submissions of the account's team on this day in UTC; simultaneous calls for
    several files may exceed it.

    Raise StageWaiting if today's limit is reached, the outcome of an attempt is unknown, or another process is
    submitting the file. Raise StageSkipped if the competition accepts no files, ConfigError if Kaggle rejects this one
    or does not report the count that ``max_per_day`` needs, ServiceError if Kaggle has a temporary fault.
    """
    submissions = kaggle.list_submissions()
    if existing := select_submission(submissions, file.fingerprint):
        return existing
    attempt = claim.read()
    if attempt and attempt.ref and (existing := kaggle.read_submission(attempt.ref, file.fingerprint)):
        return existing
    limits = kaggle.submission_limits()  # after the list: what arrives in between must not hide a counted submission
    if attempt and not _proves_absence(limits, submissions, attempt):
        raise _outcome_unknown(kaggle, file, attempt)
    require_open(kaggle)
    _require_remaining(kaggle, limits)
    if max_per_day:
        _require_few_today(limits, submissions, max_per_day)
    try:
        token = kaggle.upload(file.path)
    except ConfigError as error:
        _raise_if_limit_reached(kaggle, error, None)
        raise
    # Another store may have submitted the same file during the upload.
    if existing := kaggle.find_submission(file.fingerprint):
        return existing
    return _send(kaggle, file, claim, token, _new_attempt(limits, submissions))


def require_open(kaggle: KaggleClient) -> None:
    """Raise StageSkipped if the competition accepts no files."""
    if obstacle := kaggle.details().submission_obstacle:
        raise StageSkipped(obstacle)


def _send(kaggle: KaggleClient, file: SubmissionFile, claim: Claim, token: str, attempt: Attempt) -> SubmissionState:
    if not claim.replace(attempt):
        raise StageWaiting(f"another process is submitting the predictions {file.fingerprint}",
                           until=attempt.sent_at + MIN_PAUSE)
    if _now() > attempt.sent_at + MAX_SENDING_DELAY:
        claim.replace(None)
        raise ServiceError(f"Writing the claim took more than {MAX_SENDING_DELAY}. Nothing was sent: try again later.")
    try:
        ref = kaggle.create_submission(token, file.description)
    except ConfigError:
        claim.replace(None)
        raise
    except UnknownOutcomeError as unknown:
        if existing := kaggle.find_submission(file.fingerprint):
            return existing
        waiting = _outcome_unknown(kaggle, file, attempt, str(unknown))
        _raise_if_limit_reached(kaggle, unknown, waiting)
        raise unknown.error or waiting from unknown
    claim.replace(attempt.model_copy(update={"ref": ref}))
    return SubmissionState(ref, "PENDING", None, "", file.description)


def _new_attempt(limits: SubmissionLimits | None, submissions: list[SubmissionState]) -> Attempt:
    return Attempt(sent_at=_now(), num_counted=limits.num_total if limits else None,
                   num_listed=_num_valid(submissions))


def _proves_absence(limits: SubmissionLimits | None, submissions: list[SubmissionState], attempt: Attempt) -> bool:
    """Return whether Kaggle's count excludes that it received an attempt which is not among the listed submissions."""
    now = _now()
    if limits is None or now < attempt.sent_at + SETTLING_TIME:
        return False
    is_same_day = (attempt.sent_at.astimezone(UTC) - RESET_MARGIN).date() == (now + RESET_MARGIN).date()
    if is_same_day and limits.num_today == 0:
        return True
    # Kaggle lists every submission that it counts. This holds after midnight and with several submitters, but only if
    # Kaggle did not list more than it counted before the attempt.
    was_consistent = attempt.num_counted is not None and attempt.num_listed <= attempt.num_counted
    return was_consistent and limits.num_total <= _num_valid(submissions)


def _num_valid(submissions: list[SubmissionState]) -> int:
    # A pending submission may become invalid, and an invalid one is not counted.
    return sum(state.status == "COMPLETE" for state in submissions)


def _require_remaining(kaggle: KaggleClient, limits: SubmissionLimits | None) -> None:
    if limits is None or limits.num_allowed_now > 0:
        return
    if limits.limited_by_total:
        raise ConfigError(f"{kaggle.competition} accepts no more submissions: the account's team has made all "
                          f"{limits.num_total} that the competition allows. Set submit.enabled=false.")
    raise _limit_reached(f"Kaggle accepts no more submissions to {kaggle.competition} today")


def _require_few_today(limits: SubmissionLimits | None, submissions: list[SubmissionState], max_per_day: int) -> None:
    """Raise StageWaiting if ``max_per_day`` submissions were made today."""
    if limits is None and len(submissions) >= max_per_day:  # without a count, all of them could be of today
        raise ConfigError("submit.max_per_day cannot be checked: Kaggle does not report how many submissions were made "
                          "today. Remove the setting, or its limit in the file that CARCLF_POLICY names, or submit by "
                          "hand.")
    if limits is not None and limits.num_today >= max_per_day:
        raise _limit_reached(f"submit.max_per_day = {max_per_day}, and Kaggle has counted {limits.num_today} today")


def _raise_if_limit_reached(kaggle: KaggleClient, error: Exception, unknown: StageWaiting | None) -> None:
    """Raise StageWaiting if today's limit is the reason for an error with status 400.

    ``unknown`` is the error to raise if only Kaggle's message shows it: without a count, a claim stays after midnight.
    """
    if not isinstance(error.__cause__, Exception) or http_status(error.__cause__) != HTTPStatus.BAD_REQUEST:
        return
    limits = kaggle.submission_limits()
    _require_remaining(kaggle, limits)
    if limits is None and re.search("limit|allowance", str(error)):  # without numbers, only the message is left
        raise unknown or _limit_reached(str(error))


def _limit_reached(reason: str) -> StageWaiting:
    # Kaggle counts by days in UTC.
    midnight = _now().replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    until = midnight + RESET_MARGIN
    return StageWaiting(f"{reason}. The limit resets at 00:00 UTC; the next attempt is at {until:%Y-%m-%d %H:%M} UTC. "
                        "The predictions are kept", until=until)


def _outcome_unknown(kaggle: KaggleClient, file: SubmissionFile, attempt: Attempt, reason: str = "") -> StageWaiting:
    """Return the error for an attempt whose outcome is unknown; the pauses between the checks double."""
    now = _now()
    until = now + min(max(now - attempt.sent_at, MIN_PAUSE), MAX_PAUSE)
    return StageWaiting(
        f"The outcome of submitting the predictions {file.fingerprint} at {attempt.sent_at:%Y-%m-%d %H:%M} UTC is "
        f"unknown{reason and f' ({reason})'}. Kaggle does not list them, and they are sent again only when its count "
        f"proves that they did not arrive. The next check is at {until:%Y-%m-%d %H:%M} UTC. To end this, search for "
        f"the fingerprint at https://www.kaggle.com/competitions/{kaggle.competition}/submissions. If it is missing, "
        "send the file by hand with the fingerprint in the description", until=until)


def _now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)
