"""Download of an archive: resumed after a fault, and checked when complete."""

import errno
import lzma
import os
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

import requests

from carclf.errors import ConfigError, DataError
from carclf.os_errors import disk_full_message
from carclf.progress import log
from carclf.services.kaggle.retries import RetryPolicy, TransientError

CHUNK_BYTES = 1 << 20
LOG_SECONDS = 10.0


@dataclass
class ArchiveDownload:
    """A download to ``path``. After a fault, the next ``fetch`` continues it."""

    path: Path
    request: Callable[[dict[str, str]], requests.Response]  # requests the archive with these headers
    deadline: float
    etag: str = ""

    def fetch(self) -> None:
        """Download the rest of the archive; raise one of TRANSIENT_ERRORS if the response is incomplete."""
        start = self.path.stat().st_size if self.etag and self.path.exists() else 0
        # Each attempt asks Kaggle again, for a signed URL that has not expired.
        headers = {"Range": f"bytes={start}-", "If-Range": self.etag} if start else {}
        # The length of a compressed response would differ from that of the file.
        headers["Accept-Encoding"] = "identity"
        try:
            response = self.request(headers)
        except requests.HTTPError:
            self.etag = ""  # the Range header may have caused the error: restart from byte 0
            raise
        with response:
            self._save(response, start)

    def _save(self, response: requests.Response, start: int) -> None:
        if "html" in response.headers.get("Content-Type", ""):
            raise TransientError("received a web page instead of the archive")
        resumed = start > 0 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if response.status_code == HTTPStatus.PARTIAL_CONTENT and not resumed:
            self.etag = ""
            raise TransientError("received a different part of the archive than requested")
        etag = response.headers.get("ETag", "")
        # If-Range accepts strong validators only.
        self.etag = "" if etag.startswith("W/") else etag
        with self.path.open("ab" if resumed else "wb") as file:
            self._copy(response, file, start if resumed else 0)

    def _copy(self, response: requests.Response, file: BinaryIO, start: int) -> None:
        length = response.headers.get("Content-Length", "")
        size = start + int(length) if length.isdecimal() else 0
        done = start
        started = logged = time.monotonic()
        for chunk in response.iter_content(CHUNK_BYTES):
            file.write(chunk)
            done += len(chunk)
            now = time.monotonic()
            if now > self.deadline:
                raise TransientError(f"timed out after {done} of {size} bytes")
            if now - logged > LOG_SECONDS:
                rate = (done - start) / (now - started)
                log.info("download: done=%d MB total=%d MB rate=%.1f MB/s", done // 10**6, size // 10**6, rate / 10**6)
                logged = now
        if length.isdecimal() and done != size:
            raise TransientError(f"received {done} of {size} bytes")


def download_archive(
    path: Path, request: Callable[[dict[str, str]], requests.Response], retries: RetryPolicy, *, timeout_seconds: float
) -> Path:
    """Download the archive to ``path`` and check each of its members.

    Raise DataError if it is damaged in two complete downloads, ConfigError if the disk cannot be written to.
    """
    deadline = time.monotonic() + timeout_seconds
    part = path.with_name(f"{path.name}.part")
    _make_folder(path.parent)
    try:
        for is_last in (False, True):
            # A damaged archive of the full size cannot be resumed.
            part.unlink(missing_ok=True)
            download = ArchiveDownload(part, request, deadline)
            retries.call(f"download {path.name}", download.fetch, deadline=deadline)
            error = find_archive_error(part)
            if error is None:
                part.replace(path)
                return path
            log.warning("download: archive damaged file=%s error=%s%s", path.name, error,
                        "" if is_last else "; downloading it again")
    except OSError as os_error:
        raise _disk_error(path, os_error) from os_error
    finally:
        part.unlink(missing_ok=True)
    raise DataError(f"{path.name} is damaged in two complete downloads: {error}. Either Kaggle's copy is damaged, or a "
                    "proxy cuts it off. Download it in a browser to find out, and contact its host if it is damaged "
                    "there.")


def find_archive_error(path: Path) -> str | None:
    """Return the first error of a zip archive, or None. Read every member: correct sizes prove little."""
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
            return f"the checksum of {member!r} is wrong" if member else None
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError, ValueError,
            OverflowError, IndexError, struct.error) as error:
        return str(error) or type(error).__name__
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # bz2 raises OSError without a number, a wrong offset EINVAL
            raise
        return str(error)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _disk_error(folder, error) from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder} cannot be written to. Fix its permissions, or use another folder.")


def _disk_error(path: Path, error: OSError) -> ConfigError:
    message = disk_full_message(error, [path.parent])
    return ConfigError(message or f"{path} cannot be written: {error}. Fix its permissions, or use another folder.")
