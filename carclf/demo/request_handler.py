"""HTTP for the demo server: paths, credentials, redirects, ranges and uploads."""

import json
import re
import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from carclf.demo.faults import FIXED_RESPONSES, JSON_TYPE, Fault
from carclf.demo.kaggle_backend import BLOB_METHODS, COMPETITION_METHODS, DATASET_METHODS
from carclf.demo.kaggle_models import MODEL_METHODS
from carclf.demo.request_body import read_body
from carclf.demo.responses import ApiError
from carclf.demo.served_files import ServedFile, open_file
from carclf.progress import log

if TYPE_CHECKING:
    from carclf.demo.server import DemoServer

DOWNLOAD_METHODS = frozenset({"DownloadDataFiles", "DownloadDataFile", "DownloadDataset"})
METHODS_BY_SERVICE = {
    "competitions.CompetitionApiService": COMPETITION_METHODS | {"DownloadDataFiles", "DownloadDataFile"},
    "datasets.DatasetApiService": DATASET_METHODS | {"DownloadDataset"},
    "models.ModelApiService": MODEL_METHODS,
    "blobs.BlobApiService": BLOB_METHODS,
}
STALL_SECONDS = 30.0
IDLE_SECONDS = 60.0  # without data, after which a connection is closed
COPY_BYTES = 1 << 20
DISCARD_BYTES = 64 << 20  # of a request that is rejected
DISCARD_SECONDS = 1.0
# What parsing an invalid URL, header or JSON value raises; RecursionError: deeply nested JSON.
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


class RequestHandler(BaseHTTPRequestHandler):
    """Handles a connection. It accepts paths, and absolute URLs as sent to a proxy."""

    demo: "DemoServer"
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Log at debug level instead of printing."""
        log.debug(format, *args)

    def do_POST(self) -> None:
        """Handle an API call."""
        self._handle(self._call)

    def do_GET(self) -> None:
        """Handle a download, which starts at the requested byte."""
        self._handle(lambda _: self._download())

    def do_PUT(self) -> None:
        """Handle an upload; its URL needs no credentials, like a signed one."""
        self._handle(self._upload)

    def _handle(self, respond: Callable[[bytes], None]) -> None:
        """Read the body and respond; send an error if the request is not valid."""
        try:
            body = read_body(self.headers, self.rfile)
        except ApiError as error:
            self._send_error(error.status, error.message)
            return self._discard_rest()
        try:
            return respond(body)
        except ApiError as error:
            return self._send_error(error.status, error.message)
        except MALFORMED as error:
            return self._send_error(HTTPStatus.BAD_REQUEST, f"The request is malformed: {error}")

    def _call(self, body: bytes) -> None:
        match = re.fullmatch(r"(?:/api)?/v1/([\w.]+)/(\w+)", urlsplit(self.path).path)
        service, method = match.groups() if match else ("", "")
        self.demo.count(method)
        if (service, method) == ("security.OAuthService", "IntrospectToken"):
            return self._introspect(json.loads(body or b"{}"))
        if self.headers.get("Authorization") not in self.demo.credentials:
            raise ApiError(HTTPStatus.UNAUTHORIZED, "Unauthorized")
        if service not in METHODS_BY_SERVICE or method not in METHODS_BY_SERVICE[service]:
            raise ApiError(HTTPStatus.NOT_FOUND, f"{self.path} is not served here")
        fault = self.demo.next_fault(method)
        if fault and not fault.kind.endswith("_after"):
            return self._fail(fault)
        return self._respond(method, json.loads(body or b"{}"), fault)

    def _respond(self, method: str, request: dict[str, Any], fault: Fault | None) -> None:
        if method in DOWNLOAD_METHODS:
            return self._redirect(method, request)
        result = self.demo.handle_call(method, request)
        return self._fail(fault) if fault else self._send_json(result)

    def _introspect(self, request: dict[str, Any]) -> None:
        is_active = request.get("token") == self.demo.token
        self._send_json({"active": is_active, "username": self.demo.username if is_active else ""})

    def _redirect(self, method: str, request: dict[str, Any]) -> None:
        if method == "DownloadDataset":
            dataset = self.demo.require_dataset(request)
            path = f"datasets/{dataset.owner}/{dataset.slug}/{dataset.version}.zip"
        else:
            slug = self.demo.require_competition(request).slug
            self.demo.require_rules_accepted()
            path = f"{slug}/{request['fileName']}" if request.get("fileName") else f"{slug}.zip"
        url = f"{self.demo.url}/download/{quote(path)}?signature={self.demo.signature}"
        self._send(HTTPStatus.FOUND, b"", {"Location": url})

    def _download(self) -> None:
        url = urlsplit(self.path)
        self.demo.count("Download")
        if parse_qs(url.query).get("signature") != [self.demo.signature]:
            return self._send(*FIXED_RESPONSES["expired"])
        fault = self.demo.next_fault("Download")
        if fault and fault.kind in ("status", "html", "stall", "expired"):
            return self._fail(fault)
        return self._send_named_file(unquote(url.path.removeprefix("/download/")), fault)

    def _send_named_file(self, name: str, fault: Fault | None) -> None:
        archive, member = self.demo.find_archive(name)
        with ExitStack() as stack:
            try:
                file = open_file(archive, member, fault, stack)
            except KeyError:
                return self._send_error(HTTPStatus.NOT_FOUND, f"The file {name!r} does not exist")
            return self._send_file(file, drop=fault is not None and fault.kind.startswith("drop"))

    def _send_file(self, file: ServedFile, *, drop: bool) -> None:
        headers = {
            "ETag": file.etag, "Accept-Ranges": "bytes", "Last-Modified": "Wed, 01 Jan 2020 00:00:00 GMT",
            "Content-Type": "application/zip",
        }
        requested = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not requested or self.headers.get("If-Range") not in (None, file.etag):
            self._send_head(HTTPStatus.OK, file.num_bytes, headers)
            return self._stream(file.content, file.num_bytes, drop=drop)
        start = int(requested[1])
        if start >= file.num_bytes:
            content_range = {"Content-Range": f"bytes */{file.num_bytes}"}
            return self._send(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", content_range)
        headers["Content-Range"] = f"bytes {start}-{file.num_bytes - 1}/{file.num_bytes}"
        file.content.seek(start)
        self._send_head(HTTPStatus.PARTIAL_CONTENT, file.num_bytes - start, headers)
        return self._stream(file.content, file.num_bytes - start, drop=drop)

    def _stream(self, content: IO[bytes], num_bytes: int, *, drop: bool) -> None:
        if drop:
            self.wfile.write(content.read(num_bytes // 2))
            self._drop()
        else:
            shutil.copyfileobj(content, self.wfile, COPY_BYTES)

    def _upload(self, body: bytes) -> None:
        self.demo.count("Upload")
        if fault := self.demo.next_fault("Upload"):
            self._fail(fault)
        elif self.demo.receive_upload(urlsplit(self.path).path.removeprefix("/upload/"), body):
            self._send_json({})
        else:
            self._send_error(HTTPStatus.NOT_FOUND, "Not Found")

    def _discard_rest(self) -> None:
        """Close the connection, but first receive some of the rest: unread bytes would cost the client the response."""
        self.close_connection = True
        self.connection.settimeout(DISCARD_SECONDS)
        with suppress(OSError):
            for _ in range(DISCARD_BYTES // COPY_BYTES):
                if not self.rfile.read(COPY_BYTES):
                    return

    def _fail(self, fault: Fault) -> None:
        if response := fault.response():
            return self._send(*response)
        self.demo.closed.wait(STALL_SECONDS if fault.kind == "stall" else 0)
        return self._drop()

    def _drop(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.close()

    def _send_error(self, status: int, message: str) -> None:
        self._send(status, json.dumps({"code": status, "message": message}).encode(), JSON_TYPE)

    def _send_json(self, value: dict[str, Any]) -> None:
        self._send(HTTPStatus.OK, json.dumps(value).encode(), JSON_TYPE)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._send_head(status, len(body), headers)
        self.wfile.write(body)

    def _send_head(self, status: int, num_bytes: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(num_bytes))
        self.end_headers()
