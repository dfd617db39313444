"""Single files of a public repository on the Hugging Face Hub, without its client library."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import requests
import urllib3
from requests.adapters import HTTPAdapter

from carclf.config import HUB_NAME
from carclf.errors import ConfigError, ServiceError
from carclf.proxies import find_proxy_error
from carclf.public_addresses import require_public_address
from carclf.temporary import temporary_folder

ENDPOINT_ENV_VAR = "HF_ENDPOINT"  # as in Hugging Face's own library
DEFAULT_ENDPOINT = "https://huggingface.co"
REPOSITORY = re.compile(HUB_NAME, re.ASCII)
TIMEOUT_SECONDS = (10.0, 60.0)  # to connect, and between two parts of a response
CHUNK_BYTES = 1 << 20
MAX_TEXT_BYTES = 4_000_000  # of config.json and README.md, which have some kilobytes
RETRIES = urllib3.Retry(
    3, backoff_factor=1, status_forcelist=[429, 500, 502, 503, 504], allowed_methods=["GET"], redirect=False,
    raise_on_status=False, respect_retry_after_header=False,
)


class _CheckedAdapter(HTTPAdapter):
    """Repeats requests after transient faults, and checks where redirects lead."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(max_retries=RETRIES)
        self._endpoint = endpoint

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send the request; raise ConfigError for a private address."""
        require_public_address(str(request.url), self._endpoint, ENDPOINT_ENV_VAR)
        return super().send(request, *args, **kwargs)


class HubRepository:
    """The files of ``hf://owner/repository[@revision]``, all of the commit that the first response states.

    Raise ConfigError if the repository does not exist or is private, and ServiceError after transient faults or for a
    damaged download.
    """

    def __init__(self, name: str) -> None:
        match = REPOSITORY.fullmatch(name)
        if match is None:
            raise ConfigError(f"model.weights: {name!r} is not a repository of the Hugging Face Hub. Use "
                              "hf://owner/repository or hf://owner/repository@revision.")
        self.name = name
        self._path = match[1]
        self._revision = match[2] or "main"
        self._endpoint = os.environ.get(ENDPOINT_ENV_VAR, "").rstrip("/") or DEFAULT_ENDPOINT

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file, or None if it does not exist; raise ConfigError if it is large."""
        with self._request(name) as response:
            if response is None:
                return None
            content = BytesIO()
            self._receive(response, name, content, MAX_TEXT_BYTES)
            return content.getvalue()

    def download(self, name: str, folder: Path) -> tuple[Path, str] | None:
        """Download a file to ``<folder>/<SHA-256>/<name>``; return its path and SHA-256, or None if it does not exist.

        A file with the SHA-256 that the Hub states for large files is not downloaded again.
        """
        with self._request(name) as response:
            if response is None:
                return None
            expected = _stated_hash(response, "X-Linked-Etag", 64)
            path = folder / expected / name
            if expected and path.is_file() and _sha256(path) == expected:
                return path, expected
            with temporary_folder(folder) as work:
                part = work / name
                with part.open("wb") as file:
                    self._receive(response, name, file)
                sha256 = _sha256(part)
                if expected and sha256 != expected:
                    raise ServiceError(f"{self._problem(name)}: the received file is damaged: its SHA-256 is not the "
                                       "stated one. Try again later.")
                path = folder / sha256 / name
                path.parent.mkdir(exist_ok=True)
                part.replace(path)
            return path, sha256

    @contextmanager
    def _request(self, name: str) -> Iterator[requests.Response | None]:
        """Yield the response with a file's content, or None if the file does not exist."""
        url = f"{self._endpoint}/{self._path}/resolve/{self._revision}/{name}"
        problem = self._problem(name)
        try:
            with requests.Session() as session:
                for scheme in ("https://", "http://"):
                    session.mount(scheme, _CheckedAdapter(self._endpoint))
                # Without compression, so that the length is that of the file.
                headers = {"Accept-Encoding": "identity"}
                with session.get(url, stream=True, timeout=TIMEOUT_SECONDS, headers=headers) as response:
                    if not _exists(response, problem):
                        yield None
                        return
                    self._revision = _stated_hash(response, "X-Repo-Commit", 40)
                    if not self._revision:
                        raise ConfigError(f"{problem}: {self._endpoint} does not state the commit of the file "
                                          f"(X-Repo-Commit). Set {ENDPOINT_ENV_VAR} to a server that does, or unset "
                                          "it.")
                    yield response
        except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema,
                requests.exceptions.InvalidSchema) as error:
            raise ConfigError(f"{problem}: {error}. Set {ENDPOINT_ENV_VAR} to the URL of a server, with https://, or "
                              "unset it.") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise (find_proxy_error(problem, error)
                   or ServiceError(f"{problem}: {type(error).__name__}: {error}. Try again later.")) from error

    def _receive(self, response: requests.Response, name: str, file: BinaryIO, max_bytes: int | None = None) -> None:
        num_bytes = 0
        for chunk in response.iter_content(CHUNK_BYTES):
            num_bytes += file.write(chunk)
            if max_bytes and num_bytes > max_bytes:
                raise ConfigError(f"{self._problem(name)}: it is larger than {max_bytes:,} bytes. Set model.weights to "
                                  "a repository of timm.")
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and num_bytes != int(length):
            raise ServiceError(f"{self._problem(name)}: the received file is damaged: its size is not the stated one. "
                               "Try again later.")

    def _problem(self, name: str) -> str:
        return f"Could not download {name} of {self.name}"


def _exists(response: requests.Response, problem: str) -> bool:
    """Return False for a file that does not exist in an existing repository; raise an error for other faults."""
    status = response.status_code
    if status == HTTPStatus.NOT_FOUND and response.headers.get("X-Error-Code") == "EntryNotFound":
        return False
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
        raise ConfigError(f"{problem}: the Hub responded with status {status}: the repository or its revision does not "
                          "exist, or it is private. Check model.weights.")
    if status != HTTPStatus.OK:
        raise ServiceError(f"{problem}: the Hub responded with status {status}. Try again later.")
    return True


def _stated_hash(response: requests.Response, header: str, num_digits: int) -> str:
    """Return the hash that the Hub, before a redirect to its storage, states in a header; otherwise ''."""
    for received in (*response.history, response):
        value = received.headers.get(header, "").strip('"')
        if re.fullmatch(rf"[0-9a-f]{{{num_digits}}}", value):
            return value
    return ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
