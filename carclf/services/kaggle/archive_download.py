"""The competition's archive: fetched in as many pieces as it takes, and checked."""

import logging
import os
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from carclf.errors import ConfigError, DataError
from carclf.services.kaggle.retries import RetryPolicy, TransientError

log = logging.getLogger(__name__)
CHUNK_BYTES = 1 << 20
LOG_SECONDS = 10.0


@dataclass
class ArchiveDownload:
    """One download; what came of it lies in ``path`` and is continued by the next ``fetch``."""

    path: Path
    ask: Callable[[dict[str, str]], requests.Response]
    deadline: float
    etag: str = ""

    def fetch(self) -> None:
        """Read the body to its end; raises one of retries.FAULTS where it breaks off."""
        have = self.path.stat().st_size if self.etag and self.path.exists() else 0
        # Every try asks Kaggle again, for a signed URL that has not run out.
        headers = {"Range": f"bytes={have}-", "If-Range": self.etag} if have else {}
        # Compressed on the way, the body's length would not be the file's.
        headers["Accept-Encoding"] = "identity"
        try:
            response = self.ask(headers)
        except requests.HTTPError:
            self.etag = ""  # the part may be what was refused: start anew
            raise
        with response:
            self._read(response, have)

    def _read(self, response: requests.Response, have: int) -> None:
        if "html" in response.headers.get("Content-Type", ""):
            raise TransientError("a web page came in place of the archive")
        resumed = have > 0 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if response.status_code == 206 and not resumed:
            self.etag = ""
            raise TransientError("another part came than was asked for")
        etag = response.headers.get("ETag", "")
        # If-Range takes strong validators only.
        self.etag = "" if etag.startswith("W/") else etag
        start = have if resumed else 0
        size = start + int(response.headers.get("Content-Length") or 0)
        with self.path.open("ab" if resumed else "wb") as file:
            self._copy(response, file, start, size)

    def _copy(self, response: requests.Response, file: Any, done: int, size: int) -> None:
        started = logged = time.monotonic()
        first = done
        for chunk in response.iter_content(CHUNK_BYTES):
            file.write(chunk)
            done += len(chunk)
            now = time.monotonic()
            if now > self.deadline:
                raise TransientError(f"the time ran out after {done} of {size} bytes")
            if now - logged > LOG_SECONDS:
                rate = (done - first) / (now - started)
                log.info("%d of %d MB, %.1f MB/s", done // 10**6, size // 10**6, rate / 10**6)
                logged = now
        if response.headers.get("Content-Length") and done != size:
            raise TransientError(f"{done} bytes came in place of {size}")


def download_archive(
    path: Path, ask: Callable[[dict[str, str]], requests.Response], retries: RetryPolicy, *, timeout_seconds: float
) -> Path:
    """The archive at ``path``, each of its members checked; DataError if it is broken twice over."""
    deadline = time.monotonic() + timeout_seconds
    part = path.with_name(f"{path.name}.part")
    _make_folder(path.parent)
    try:
        for again in (False, True):
            # Broken at its full size: nothing of it can be built upon.
            part.unlink(missing_ok=True)
            download = ArchiveDownload(part, ask, deadline)
            retries.call(f"download {path.name}", download.fetch, deadline=deadline)
            fault = find_archive_error(part)
            if fault is None:
                part.replace(path)
                return path
            log.warning("%s is broken (%s)%s", path.name, fault, "" if again else ": fetching it again")
    except OSError as error:
        raise _disk_error(path, error) from error
    finally:
        part.unlink(missing_ok=True)
    raise DataError(
        f"{path.name} is broken ({fault}), twice alike: so it lies at Kaggle, or something on the way cuts it. "
        "Download it in a browser to see, and tell the competition's host."
    )


def find_archive_error(path: Path) -> str | None:
    """What is wrong with a zip archive, or None; every member is read, for the sizes alone say little."""
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
            return f"member {member!r} fails its checksum" if member else None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        return str(error) or type(error).__name__


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _disk_error(folder, error) from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder} cannot be written to. Name another folder, or mend its permissions.")


def _disk_error(path: Path, error: OSError) -> ConfigError:
    free = shutil.disk_usage(path.parent).free // 10**6 if path.parent.is_dir() else 0
    return ConfigError(f"{path} cannot be written: {error} ({free} MB are free). Make room or name another folder.")
