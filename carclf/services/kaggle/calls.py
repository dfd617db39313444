"""Calls of Kaggle's API about one competition, dataset or model: requests, retries, pages and transfers."""

import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, BinaryIO, TypeVar

import requests

from carclf.errors import ConfigError, ServiceError
from carclf.public_addresses import require_public_address
from carclf.services.kaggle.credentials import CONNECT_TIMEOUT_SECONDS, ENDPOINT_ENV_VAR
from carclf.services.kaggle.retries import TRANSIENT_ERRORS, RetryPolicy, TransientError, http_status

T = TypeVar("T")
PAGE_SIZE = 200  # the largest that Kaggle allows
MAX_PAGES = 10_000
# The SDK raises any of these for a response that it cannot parse.
PARSE_ERRORS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
# Kaggle checks these before it creates anything. After other errors, such as 429 from a gateway that repeated the
# request, a submission may have been counted, or a version created.
REJECTION_STATUSES = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}


class UnknownOutcomeError(Exception):
    """Kaggle may have created what it was asked for: its response is lost, unusable or an error.

    ``error`` is the error to report if a retry cannot help, otherwise None.
    """

    def __init__(self, message: str, error: ConfigError | None) -> None:
        super().__init__(message)
        self.error = error


@dataclass(frozen=True)
class ApiCalls:
    """Calls of one of the SDK's services; ``subject`` has the request fields that name what the calls are about."""

    http: Any  # the SDK's client
    service: str  # competitions, datasets, models or blobs
    subject: Mapping[str, Any]
    retries: RetryPolicy

    def call(self, action: str, kind: str, parse: Callable[[Any], T], **fields: Any) -> T:
        """Return the parsed response to a call such as GetDataset, which is repeated after transient errors."""
        return self.retries.call(action, lambda: self.invoke(kind, parse, **fields))

    def invoke(self, kind: str, parse: Callable[[Any], T], **fields: Any) -> T:
        """Call the API once; raise one of TRANSIENT_ERRORS for an error or a malformed response."""
        request = self._request(kind, fields)
        try:
            return parse(self._method(kind)(request))
        except TRANSIENT_ERRORS:
            raise
        except PARSE_ERRORS as error:
            raise TransientError(f"Kaggle's response to {kind} is malformed: {error!r}") from error

    def create(self, action: str, kind: str, parse: Callable[[Any], T], **fields: Any) -> T:
        """Call the API once to create something.

        Raise ConfigError if Kaggle rejected the call, UnknownOutcomeError if Kaggle may have executed it.
        """
        try:
            return self.invoke(kind, parse, **fields)
        except (ConfigError, *TRANSIENT_ERRORS) as error:  # ConfigError: of a redirect that followed the request
            message = f"{type(error).__name__}: {error}"
            try:
                self.retries.raise_if_permanent(action, error)
            except ConfigError as permanent:
                if http_status(error) in REJECTION_STATUSES:
                    raise
                raise UnknownOutcomeError(message, permanent) from error
            raise UnknownOutcomeError(message, None) from error

    def put(self, url: str, data: bytes | BinaryIO, read_timeout_seconds: float) -> None:
        """Upload data to the URL in a response; raise TransientError or a RequestException if that fails."""
        # The SDK's upload hides the status of a failure, on which a retry depends.
        require_public_address(url, self.http.http_client()._endpoint, ENDPOINT_ENV_VAR)
        try:
            response = requests.put(url, data=data, timeout=(CONNECT_TIMEOUT_SECONDS, read_timeout_seconds),
                                    allow_redirects=False)
        except ValueError as error:  # all errors about an invalid URL
            raise TransientError(f"Kaggle's response has no valid upload URL: {error}") from error
        if response.status_code not in (HTTPStatus.OK, HTTPStatus.CREATED):
            raise TransientError(f"the upload failed with status {response.status_code}")

    def pages(self, action: str, kind: str, parse: Callable[[Any], list[T]], **fields: Any) -> Iterator[T]:
        """Yield the entries of all pages; raise ServiceError if there are more than MAX_PAGES."""

        def parse_page(page: Any) -> tuple[list[T], str]:
            return parse(page), require_type(str, page.next_page_token or "")

        token = ""
        for _ in range(MAX_PAGES):
            paging = {"page_size": PAGE_SIZE, "page_token": token}
            entries, next_token = self.call(action, kind, parse_page, **paging, **fields)
            yield from entries
            if not next_token or next_token == token:
                return
            token = next_token
        raise ServiceError(f"Cannot {action}: Kaggle lists more than {MAX_PAGES * PAGE_SIZE} entries. Set "
                           "data.source to a source with fewer files, or to a folder with the downloaded files.")

    def request_archive(self, kind: str, headers: Mapping[str, str], **fields: Any) -> requests.Response:
        """Return the response to a download, which is sent these headers after the redirect to the storage."""
        session = self.http.http_client()._session
        # The SDK accepts no headers for a single call; those of its session survive the redirect.
        session_headers = session.headers.copy()
        session.headers.update(headers)
        try:
            return self.invoke(kind, lambda response: require_type(requests.Response, response), **fields)
        finally:
            session.headers = session_headers

    def _request(self, kind: str, fields: Mapping[str, Any]) -> Any:
        request = self.new_object(f"Api{kind}Request")
        for name, value in self.subject.items():
            if hasattr(request, name):
                setattr(request, name, value)
        for name, value in fields.items():
            setattr(request, name, value)
        return request

    def new_object(self, name: str) -> Any:
        """Return an empty object of one of the SDK's types of this service."""
        types = importlib.import_module(f"kagglesdk.{self.service}.types.{self.service.removesuffix('s')}_api_service")
        return getattr(types, name)()

    def _method(self, kind: str) -> Callable[[Any], Any]:
        api = getattr(getattr(self.http, self.service), f"{self.service.removesuffix('s')}_api_client")
        method: Callable[[Any], Any] = getattr(api, re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower())
        return method


def require_type(kind: type[T], value: object) -> T:
    """Return the value; raise TypeError if it has another type: the SDK does not check the types of fields."""
    if type(value) is not kind:
        raise TypeError(f"{value!r:.40} is not of type {kind.__name__}")
    return value


def parse_file(entry: Any) -> tuple[str, int, str]:
    """Return the name, the size in bytes and the creation date of a listed file."""
    return require_type(str, entry.name), require_type(int, entry.total_bytes), str(entry.creation_date or "")
