"""Remove secrets from text that leaves the process: output, logs, run records, results and pages."""

import functools
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO, cast
from urllib.parse import quote, unquote

MASK = "***"
MIN_CHARS = 8  # a shorter value, such as "test", is also a part of ordinary words
REFRESH_SECONDS = 60
_VARIABLE = re.compile(r"(?i)(?:.*_)?(?:KEY|KEY_ID|TOKEN|SECRET|HEADERS|NOTIFICATION_URL)|.*PASSW(?:OR)?D"
                       r"|.+_(?:PASS|PWD|AUTH)")  # PWD itself is the working folder
_KAGGLE_FOLDERS = ("~/.kaggle", "~/.config/kaggle")
_KAGGLE_FILES = ("kaggle.json", "access_token", "access_token.txt", "credentials.json")
_FILE_VARIABLES = (  # each with the default path, if any
    ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), ("AWS_CONFIG_FILE", "~/.aws/config"), ("NETRC", "~/.netrc"),
    ("AWS_WEB_IDENTITY_TOKEN_FILE", ""), ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", ""), ("KAGGLE_API_V1_TOKEN", ""),
)
# In a JSON, INI or netrc file, or in the JSON of a variable; it need not be valid.
_ENTRY = re.compile(r"(?i)(?:key|token|secret|password)[\"']?\s*[:=\s]\s*[\"']?((?<=[\"'])[^\"'\n]+|[^\"'\s,}]+)")
_USER_INFO = re.compile(r"://([^/?#\s'\"]*)@")
# Secrets that no variable or file contains: signed URLs, headers, and keys of another account.
_PATTERNS = (
    (re.compile(r"://[^/?#\s'\"]*@"), f"://{MASK}@"),
    (re.compile(r"(?i)([?&](?:x-(?:amz|goog)-(?:credential|security-token)|sig|awsaccesskeyid|googleaccessid|upload_id|"
                r"(?:access_)?token|key|password)=|\b(?:x-(?:amz|goog)-)?signature=)[^&\s'\"<>\\]+"), rf"\1{MASK}"),
    (re.compile(r"\b(Basic|Bearer)\s+[\w+/=.~-]{16,}"), rf"\1 {MASK}"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), MASK),
)  # fmt: skip
_spellings: set[str] = set()  # a text may still contain a token that has been replaced in its file


def redact(text: str) -> str:
    """Replace every secret in the text by ``***``.

    These are the secrets in this process's environment and in the credential files of Kaggle, AWS and netrc, and
    passwords and signatures in any URL. Values of fewer than MIN_CHARS characters are replaced in URLs only. The
    secrets are read again every REFRESH_SECONDS; earlier ones are still replaced.
    """
    if not text or text.isspace():  # such as the line end that print() writes separately
        return text
    for secret in _known_secrets(int(time.monotonic() / REFRESH_SECONDS)):
        text = text.replace(secret, MASK)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redact_values(value: Any) -> Any:
    """Return a JSON value with its strings redacted; keys and numbers stay, so that programs can still read it."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redact_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_values(item) for item in value]
    return value


def redact_output() -> None:
    """Redact everything that this process prints from now on, including tracebacks and the output of libraries."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, _RedactedStream):
            setattr(sys, name, cast(TextIO, _RedactedStream(stream)))


def kaggle_files() -> list[Path]:
    """Return the paths at which Kaggle's client searches for files with credentials, in its order."""
    folders = [os.environ.get("KAGGLE_CONFIG_DIR"), *_KAGGLE_FOLDERS]
    return [Path(os.path.expanduser(folder)) / name for folder in folders if folder for name in _KAGGLE_FILES]  # noqa: PTH111


class _RedactedStream:
    """A text stream; it does not own the stream behind it, which others may restore."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@functools.lru_cache(maxsize=1)
def _known_secrets(_: int) -> list[str]:
    """Return the secrets that this process has read so far in all their spellings, longest first."""
    values = {*_environment_secrets(), *_file_secrets()}
    lines = {line.strip() for value in values for line in (value, *value.splitlines())}
    spellings = {spelling for line in lines for spelling in (line, json.dumps(line)[1:-1], ascii(line)[1:-1],
                                                             quote(line, safe=""), unquote(line))}  # fmt: skip
    _spellings.update(text for text in spellings if len(text) >= MIN_CHARS)
    return sorted(_spellings, key=len, reverse=True)


def _environment_secrets() -> Iterator[str]:
    for name, value in os.environ.items():
        if name.lower().endswith("_proxy"):  # its password may contain unquoted characters
            user_info = [value.partition("://")[2] or value]
        else:
            user_info = [f"{text}@" for text in _USER_INFO.findall(value)]
        for text in user_info:
            yield text.rpartition("@")[0].partition(":")[2]
        if _VARIABLE.fullmatch(name):
            yield from _variable_secrets(value)
        if value.startswith("{"):  # AIRFLOW_CONN_...; its extra is JSON in JSON
            yield from _ENTRY.findall(value.replace('\\"', '"'))


def _variable_secrets(value: str) -> Iterator[str]:
    """Yield the value, the values of headers in it, and the content of the file that it names."""
    if content := _read_text(value):
        yield content
    else:
        yield value
        yield from (header.partition("=")[2] for header in value.split(","))


def _file_secrets() -> Iterator[str]:
    paths = [os.environ.get(name) or default for name, default in _FILE_VARIABLES]
    for text in map(_read_text, [*map(str, kaggle_files()), *paths]):
        yield from _ENTRY.findall(text)
        if len(text.split()) == 1:  # a file that contains nothing but a token
            yield text


def _read_text(path: str) -> str:
    """Return the text of a file in almost any encoding; empty if it is not a readable file."""
    try:
        file = Path(os.path.expanduser(path))  # noqa: PTH111 (Path.expanduser fails without a home)
        data = file.read_bytes() if path and file.is_file() else b""
    except (OSError, ValueError):
        return ""
    return data.replace(b"\0", b"").decode("utf-8", "ignore").lstrip("\ufeff").strip()
