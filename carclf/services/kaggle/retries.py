"""Which of Kaggle's faults pass, which need a person or another day, and how long to wait between tries."""

import email.utils
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import requests
import urllib3

from carclf.errors import CarclfError, ConfigError, ServiceError, StageWaiting
from carclf.services.kaggle.credentials import CREDENTIALS_HELP

T = TypeVar("T")
log = logging.getLogger(__name__)

LONGEST_WAIT_SECONDS = 300.0
RESET_MARGIN = timedelta(minutes=5)  # clocks differ
RETRYABLE_STATUSES = {408, 425, 429}
_MALFORMED = (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema)


class TransientError(Exception):
    """An answer that is no HTTP error and still worth another try."""


# JSONDecodeError: a page in HTML with status 200, such as a maintenance notice.
TRANSIENT_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, json.JSONDecodeError, TransientError)


@dataclass(frozen=True)
class RetryPolicy:
    """Calls Kaggle until it answers; every fault comes out as a CarclfError."""

    competition: str
    source: str
    tries: int
    backoff_seconds: float

    def call(self, what: str, call: Callable[[], T], *, deadline: float = float("inf")) -> T:
        """What ``call`` returns; ServiceError after the last try or past the deadline (``time.monotonic``)."""
        for attempt in range(1, self.tries + 1):
            try:
                return call()
            except TRANSIENT_ERRORS as fault:
                self.check(what, fault)
                self.pause(what, fault, attempt, deadline)
        raise AssertionError("pause() raises after the last try")

    def check(self, what: str, fault: Exception) -> None:
        """Raise ConfigError or ServiceError if trying again at once cannot help."""
        if isinstance(fault, _MALFORMED):
            raise ConfigError(f"Could not {what}: {fault}. Mend CARCLF_KAGGLE_ENDPOINT.") from fault
        status = http_status(fault)
        if 400 <= status < 500 and status not in RETRYABLE_STATUSES:
            raise self._refusal(what, status, str(fault)) from fault

    def pause(self, what: str, fault: Exception, attempt: int, deadline: float = float("inf")) -> None:
        """Sleep before the next try; ServiceError if there is none, or too late, or Kaggle asks for too long."""
        asked = _retry_after(fault)
        wait = max(self.backoff_seconds * 2 ** (attempt - 1), asked)
        text = f"Could not {what}: {type(fault).__name__}: {fault} (try {attempt} of {self.tries})."
        if asked > LONGEST_WAIT_SECONDS:
            raise ServiceError(f"{text} Kaggle asks to wait {asked:.0f} s: try again after that.") from fault
        if attempt >= self.tries or time.monotonic() + wait > deadline:
            raise ServiceError(f"{text} Kaggle or the network fails for the moment: try again later.") from fault
        log.warning("%s Next try in %.1f s.", text, wait)
        time.sleep(wait)

    def _refusal(self, what: str, status: int, fault: str) -> CarclfError | StageWaiting:
        text = f"Could not {what}: Kaggle answered {status}: {fault}."
        if status == 401:
            return ConfigError(f"{text} The token from {self.source} is wrong or stale. {CREDENTIALS_HELP}")
        if status == 403:
            url = f"https://www.kaggle.com/competitions/{self.competition}/rules"
            return ConfigError(f"{text} Join the competition and accept its rules at {url} with the token's account.")
        if status == 404:
            return ConfigError(f"{text} Check the slug: the competition is set to {self.competition!r}.")
        if what == "submit" and status == 400 and "limit" in fault.lower():
            return submission_limit_error(text.rstrip("."))
        return ConfigError(f"{text} A retry cannot help: check the request against Kaggle's message.")


def submission_limit_error(what: str) -> StageWaiting:
    """The daily limit, and the time of the next submission: Kaggle counts by days of UTC."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    until = midnight + RESET_MARGIN
    return StageWaiting(f"{what}. The limit resets at 00:00 UTC; the next try is at {until:%Y-%m-%d %H:%M} UTC. Nothing was "
                  "sent, and the predictions are kept.", until=until)


def http_status(fault: Exception) -> int:
    """The HTTP status of Kaggle's own refusal; 0 where the fault is of another kind."""
    response = getattr(fault, "response", None)
    if not isinstance(fault, requests.HTTPError) or response is None:
        return 0
    # After a redirect it was the storage that refused: its signed URL ran out, and a new one will do.
    if response.history:
        return 0
    if response.status_code < 400:  # an error told in the body of a 200
        return int(response.json()["code"])
    return int(response.status_code)


def _retry_after(fault: Exception) -> float:
    response = getattr(fault, "response", None)
    text = response.headers.get("Retry-After", "") if response is not None else ""
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
