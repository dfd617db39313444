"""HTTP for the demo server: paths, credentials, redirects, ranges, uploads, and the planned faults."""

import json
import logging
import re
import shutil
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from carclf.demo.faults import Fault
from carclf.demo.kaggle_api import ApiError
from carclf.demo.served_files import ServedFile, open_file

if TYPE_CHECKING:
    from carclf.demo.server import DemoServer

log = logging.getLogger(__name__)
STALL_SECONDS = 30.0
JSON_TYPE = {"Content-Type": "application/json"}
# What storage answers to a signature that has expired; no JSON, and nothing that the client understands.
EXPIRED = b"<?xml version='1.0' encoding='UTF-8'?><Error><Code>ExpiredToken</Code></Error>"


class RequestHandler(BaseHTTPRequestHandler):
    """One connection; a proxy's absolute paths and plain ones are the same."""

    demo: "DemoServer"
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)

    def do_POST(self) -> None:
        """One call of the API."""
        body = self._body()
        try:
            self._call(body)
        except ApiError as refused:
            self._refuse(refused.status, refused.message)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._refuse(400, f"The request is malformed: {error}")

    def _call(self, body: bytes) -> None:
        found = re.fullmatch(r"(?:/api)?/v1/([\w.]+)/(\w+)", urlsplit(self.path).path)
        service, method = (found[1], found[2]) if found else ("", "")
        self.demo.count(method)
        if (service, method) == ("security.OAuthService", "IntrospectToken"):
            return self._introspect(json.loads(body or b"{}"))
        if self.headers.get("Authorization") not in self.demo.credentials:
            raise ApiError(401, "Unauthorized")
        if service != "competitions.CompetitionApiService":
            raise ApiError(404, f"{self.path} is not served here")
        fault = self.demo.next_fault(method)
        if fault and fault.kind != "drop_after":
            return self._break(fault)
        return self._answer(method, json.loads(body or b"{}"), lost=fault is not None)

    def _answer(self, method: str, request: dict[str, Any], *, lost: bool) -> None:
        if method in ("DownloadDataFiles", "DownloadDataFile"):
            return self._redirect(request, f"{self.demo.competition.slug}.zip")
        answer = self.demo.answer(method, request)
        return self._drop() if lost else self._send(200, json.dumps(answer).encode(), JSON_TYPE)

    def _introspect(self, request: dict[str, Any]) -> None:
        active = request.get("token") == self.demo.token
        answer = {"active": active, "username": self.demo.username if active else ""}
        self._send(200, json.dumps(answer).encode(), JSON_TYPE)

    def _redirect(self, request: dict[str, Any], archive: str) -> None:
        self.demo.require_competition(request)
        self.demo.require_rules()
        name = quote(str(request.get("fileName") or archive))
        self._send(302, b"", {"Location": f"{self.demo.url}/download/{name}?signature={self.demo.signature}"})

    def do_GET(self) -> None:
        """The body of a download, from the byte asked for."""
        url = urlsplit(self.path)
        self.demo.count("Download")
        if parse_qs(url.query).get("signature") != [self.demo.signature]:
            return self._send(403, EXPIRED, {"Content-Type": "application/xml"})
        fault = self.demo.next_fault("Download")
        if fault and fault.kind in ("status", "html", "stall", "expired"):
            return self._break(fault)
        return self._send_named(unquote(url.path.removeprefix("/download/")), fault)

    def _send_named(self, name: str, fault: Fault | None) -> None:
        member = None if name == f"{self.demo.competition.slug}.zip" else name
        with ExitStack() as stack:
            try:
                file = open_file(self.demo.competition.archive, member, fault, stack)
            except KeyError:
                return self._refuse(404, f"There is no file {name!r}")
            return self._send_file(file, cut=fault is not None and fault.kind.startswith("drop"))

    def _send_file(self, file: ServedFile, *, cut: bool) -> None:
        headers = {
            "ETag": file.etag,
            "Accept-Ranges": "bytes",
            "Last-Modified": "Wed, 01 Jan 2020 00:00:00 GMT",
            "Content-Type": "application/zip",
        }
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not wanted or self.headers.get("If-Range") not in (None, file.etag):
            return self._stream(200, file.content, file.num_bytes, headers, cut=cut)
        start = int(wanted[1])
        if start >= file.num_bytes:
            return self._send(416, b"", {"Content-Range": f"bytes */{file.num_bytes}"})
        headers["Content-Range"] = f"bytes {start}-{file.num_bytes - 1}/{file.num_bytes}"
        file.content.seek(start)
        return self._stream(206, file.content, file.num_bytes - start, headers, cut=cut)

    def _stream(self, status: int, content: IO[bytes], num_bytes: int, headers: dict[str, str], *, cut: bool) -> None:
        self._send_head(status, num_bytes, headers)
        if cut:
            self.wfile.write(content.read(num_bytes // 2))
            self._drop()
        else:
            shutil.copyfileobj(content, self.wfile, 1 << 20)

    def do_PUT(self) -> None:
        """The body of an upload; without credentials, as with signed URLs."""
        body = self._body()
        self.demo.count("Upload")
        if fault := self.demo.next_fault("Upload"):
            self._break(fault)
        elif self.demo.receive(urlsplit(self.path).path.removeprefix("/upload/"), body):
            self._send(200, b"{}", JSON_TYPE)
        else:
            self._refuse(404, "Not Found")

    def _body(self) -> bytes:
        # The client sends an empty file in chunks: nothing but the mark of the end.
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = b""
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            chunks += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return chunks

    def _break(self, fault: Fault) -> None:
        if fault.kind == "html":
            self._send(200, b"<html>Please wait</html>", {"Content-Type": "text/html"})
        elif fault.kind == "expired":
            self._send(403, EXPIRED, {"Content-Type": "application/xml"})
        elif fault.kind == "empty":
            self._send(200, b"{}", JSON_TYPE)
        elif fault.kind == "status":
            extra = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            self._refuse(fault.status, f"planned fault {fault.status}", extra)
        else:
            self.demo.closed.wait(STALL_SECONDS if fault.kind == "stall" else 0)
            self._drop()

    def _drop(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.close()

    def _refuse(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        text = json.dumps({"code": status, "message": message})
        self._send(status, text.encode(), JSON_TYPE | (headers or {}))

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._send_head(status, len(body), headers)
        self.wfile.write(body)

    def _send_head(self, status: int, num_bytes: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(num_bytes))
        self.end_headers()
