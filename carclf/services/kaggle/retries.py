"""Retries of Kaggle requests: which errors are transient, which are permanent, and how long to wait."""

import email.utils
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TypeVar

import requests
import urllib3

from carclf.errors import ConfigError, ServiceError
from carclf.progress import log
from carclf.proxies import find_proxy_error
from carclf.services.kaggle.credentials import CREDENTIALS_HELP, ENDPOINT_ENV_VAR

T = TypeVar("T")

LONGEST_WAIT_SECONDS = 300.0
RETRYABLE_STATUSES = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
_MALFORMED = (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema)


class TransientError(Exception):
    """An unusable response without an HTTP error; another attempt may help."""


# JSONDecodeError: a page in HTML with status 200, such as a maintenance notice.
TRANSIENT_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, json.JSONDecodeError, TransientError)


@dataclass(frozen=True)
class RetryPolicy:
    """Repeats calls after transient errors, and translates all errors to ConfigError or ServiceError.

    ``source`` is where the credentials come from, ``hints`` has a fix for each permanent status of a response.
    """

    source: str
    max_attempts: int
    backoff_seconds: float
    hints: Mapping[int, str] = field(default_factory=dict)

    def call(self, action: str, call: Callable[[], T], *, deadline: float = float("inf")) -> T:
        """Return the result of ``call``, which is repeated if it raises one of TRANSIENT_ERRORS.

        Raise ServiceError after the last attempt, or if the next one would start after the deadline
        (``time.monotonic``). ``action`` describes the call in messages: "download cars.zip".
        """
        for attempt in range(1, self.max_attempts + 1):
            try:
                return call()
            except TRANSIENT_ERRORS as error:
                self.raise_if_permanent(action, error)
                self.wait_before_retry(action, error, attempt, deadline)
        raise AssertionError("wait_before_retry() raises after the last attempt")

    def raise_if_permanent(self, action: str, error: Exception) -> None:
        """Raise ConfigError if a retry cannot help."""
        if isinstance(proxy_error := find_proxy_error(f"Could not {action}", error), ConfigError):
            raise proxy_error from error
        if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise ConfigError(f"Could not {action}: this machine does not trust the server's certificate: {error}. If "
                              "a proxy replaces certificates, set REQUESTS_CA_BUNDLE to its root.") from error
        if isinstance(error, _MALFORMED):
            raise ConfigError(f"Could not {action}: {error}. CARCLF_KAGGLE_ENDPOINT must be the URL of "
                              "a server, with http:// or https://.") from error
        status = http_status(error)
        if is_client_error(status) and status not in RETRYABLE_STATUSES:
            raise self._permanent_error(action, status, str(error)) from error

    def wait_before_retry(self, action: str, error: Exception, attempt: int, deadline: float = float("inf")) -> None:
        """Sleep before the next attempt; raise ServiceError after the last attempt or if the wait would be too long."""
        requested = _retry_after(error)
        wait = max(self.backoff_seconds * 2 ** (attempt - 1), requested)
        message = f"Could not {action}: {type(error).__name__}: {error} (attempt {attempt} of {self.max_attempts})."
        if requested > LONGEST_WAIT_SECONDS:
            raise ServiceError(f"{message} Kaggle asks to wait {requested:.0f} s: try again after that.") from error
        if attempt >= self.max_attempts or time.monotonic() + wait > deadline:
            if proxy_error := find_proxy_error(f"Could not {action}", error):
                raise proxy_error from error
            server = f"The server in {ENDPOINT_ENV_VAR}" if os.environ.get(ENDPOINT_ENV_VAR) else "Kaggle"
            raise ServiceError(f"{message} {server} or the network has a temporary fault: try again later.") from error
        log.warning("%s Next attempt in %.1f s.", message, wait)
        time.sleep(wait)

    def _permanent_error(self, action: str, status: int, error: str) -> ConfigError:
        message = f"Could not {action}: Kaggle responded with status {status}: {error}."
        if status == HTTPStatus.UNAUTHORIZED:
            return ConfigError(f"{message} The token from {self.source} is invalid or expired. {CREDENTIALS_HELP}")
        hint = self.hints.get(status, "A retry cannot help: check the request against Kaggle's message.")
        return ConfigError(f"{message} {hint}")


def is_client_error(status: int) -> bool:
    """Return whether a status is 4xx."""
    return HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR


def http_status(error: Exception) -> int:
    """Return the HTTP status of Kaggle's response; 0 for other errors."""
    response = getattr(error, "response", None)
    if not isinstance(error, requests.HTTPError) or response is None:
        return 0
    # After a redirect, the status is the storage's: the signed URL has expired, and the next attempt gets a new one.
    if response.history:
        return 0
    if response.status_code < HTTPStatus.BAD_REQUEST:  # an error in the body of a successful response
        code = response.json()["code"]
        return code if isinstance(code, int) else 0
    return int(response.status_code)


def _retry_after(error: Exception) -> float:
    response = getattr(error, "response", None)
    text = response.headers.get("Retry-After", "") if response is not None else ""
    if text.isdecimal():  # not isdigit(): it accepts "²"
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
