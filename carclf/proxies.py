"""Errors that a proxy causes. requests and boto3 read its URL from the environment."""

import os
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from carclf.errors import CarclfError, ConfigError, ServiceError

_VARIABLE = re.compile(r"(?i)(?:https?|all)_proxy")
_INVALID = re.compile(r"(?i)failed to parse|proxy url|socks|no host")
_REJECTED = re.compile(r"\(407\)|\b407 Client Error|Tunnel connection failed: (4\d\d)")
_UNREACHABLE = re.compile(r"(?i)connect to proxy|tunnel connection failed")


def find_proxy_error(problem: str, error: BaseException) -> CarclfError | None:
    """Return the error to raise instead if a proxy caused an error of requests or botocore, otherwise None.

    ``problem`` is the beginning of its message. The message does not repeat the error, which may contain a password.
    """
    names = sorted(name for name, value in os.environ.items() if value and _VARIABLE.fullmatch(name))
    text = " ".join(_messages(error))
    invalid = [name for name in names if not _is_valid(os.environ[name])]
    if invalid and (_INVALID.search(text) or _UNREACHABLE.search(text)):
        return ConfigError(f"{problem}: {', '.join(invalid)} is not the URL of an HTTP proxy. Use http://host:port; a "
                           "user and a password come before the host, followed by @, with special characters quoted "
                           "(%40 for @). SOCKS proxies are not supported.")
    if names and (match := _REJECTED.search(text)):
        return ConfigError(f"{problem}: the proxy in {', '.join(names)} rejects the request with status "
                           f"{match[1] or 407}. Add a user and a password to its URL, before "
                           "the host and followed by @, or add the server's host to NO_PROXY.")
    if names and _UNREACHABLE.search(text):
        return ServiceError(f"{problem}: the proxy in {', '.join(names)} cannot be reached. Check its host and port, "
                            "or add the server's host to NO_PROXY.")
    return None


def _messages(error: BaseException | None) -> Iterator[str]:
    """Yield the error's message and those of its causes: botocore's does not contain the proxy's status."""
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


def _is_valid(proxy: str) -> bool:
    try:
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        return False
