"""Download single files of a public repository on the Hugging Face Hub, without its client library."""

import hashlib
import os
import re
from http import HTTPStatus
from pathlib import Path
from typing import Any

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


def download_file(repository: str, name: str, path: Path) -> bool:
    """Download a file of ``hf://owner/repository[@revision]`` to ``path``; return False if the file does not exist.

    A file whose SHA-256 is the one that the Hub states for large files is not downloaded again.

    Raise ConfigError if the repository does not exist or is private, and ServiceError after transient faults or if the
    download does not have the stated SHA-256.
    """
    match = REPOSITORY.fullmatch(repository)
    if match is None:
        raise ConfigError(f"model.weights: {repository!r} is not a repository of the Hugging Face Hub. Use "
                          "hf://owner/repository or hf://owner/repository@revision.")
    endpoint = os.environ.get(ENDPOINT_ENV_VAR, "").rstrip("/") or DEFAULT_ENDPOINT
    url = f"{endpoint}/{match[1]}/resolve/{match[2] or 'main'}/{name}"
    problem = f"Could not download {name} of {repository}"
    try:
        with requests.Session() as session:
            for scheme in ("https://", "http://"):
                session.mount(scheme, _CheckedAdapter(endpoint))
            # Without compression, so that the length is that of the file.
            headers = {"Accept-Encoding": "identity"}
            with session.get(url, stream=True, timeout=TIMEOUT_SECONDS, headers=headers) as response:
                return _save(response, path, problem)
    except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema,
            requests.exceptions.InvalidSchema) as error:
        raise ConfigError(f"{problem}: {error}. Set {ENDPOINT_ENV_VAR} to the URL of a server, with https://, or unset "
                          "it.") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise (find_proxy_error(problem, error)
               or ServiceError(f"{problem}: {type(error).__name__}: {error}. Try again later.")) from error


def _save(response: requests.Response, path: Path, problem: str) -> bool:
    """Write the response to ``path``; return False for a file that does not exist in an existing repository."""
    status = response.status_code
    if status == HTTPStatus.NOT_FOUND and response.headers.get("X-Error-Code") == "EntryNotFound":
        return False
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
        raise ConfigError(f"{problem}: the Hub responded with status {status}: the repository or its revision does not "
                          "exist, or it is private. Check model.weights.")
    if status != HTTPStatus.OK:
        raise ServiceError(f"{problem}: the Hub responded with status {status}. Try again later.")
    expected = _stated_sha256(response)
    if expected and path.is_file() and _sha256(path) == expected:
        return True
    with temporary_folder(path.parent) as work:
        part = work / path.name
        with part.open("wb") as file:
            for chunk in response.iter_content(CHUNK_BYTES):
                file.write(chunk)
        length = response.headers.get("Content-Length", "")
        if (expected and _sha256(part) != expected) or (length.isdecimal() and part.stat().st_size != int(length)):
            raise ServiceError(f"{problem}: the received file is damaged: its SHA-256 or its size is not the stated "
                               "one. Try again later.")
        part.replace(path)
    return True


def _stated_sha256(response: requests.Response) -> str:
    """Return the SHA-256 that the Hub, before a redirect to its storage, states for a large file; otherwise ''."""
    for received in (*response.history, response):
        etag = received.headers.get("X-Linked-Etag", "").strip('"')
        if re.fullmatch(r"[0-9a-f]{64}", etag):
            return etag
    return ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
