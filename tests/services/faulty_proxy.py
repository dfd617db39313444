"""A way to an S3 server that cuts connections and damages bytes.

It refuses damaged parts, and parts for an upload that was ended (moto stumbles over them), as S3 itself does.
"""

import base64
import hashlib
import threading
from collections.abc import Callable
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

Fault = Callable[[str, str], str | None]
HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "date", "server"}
BAD_DIGEST = b"<Error><Code>BadDigest</Code><Message>The checksum did not match.</Message></Error>"
NO_SUCH_UPLOAD = b"<Error><Code>NoSuchUpload</Code><Message>The upload does not exist.</Message></Error>"


class FaultyProxy:
    """``fault`` is asked of each request (method, and what of its address or range names it): cut, flip or None."""

    def __init__(self, endpoint: str) -> None:
        self.seen: list[tuple[str, str]] = []
        self.fault: Fault = lambda method, what: None
        way, address = self, urlsplit(endpoint).netloc
        one_by_one = threading.Lock()  # moto loses parts that arrive at once

        class Pass(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                what = self.headers.get("Range") or self.path.partition("?")[2]
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                way.seen.append((self.command, what))
                fault = way.fault(self.command, what)
                if self.command == "PUT" and fault == "cut":
                    return self._hang_up()
                body = _flipped(body) if self.command == "PUT" and fault == "flip" else body
                said = self.headers.get("x-amz-checksum-sha256")
                if said and body and base64.b64encode(hashlib.sha256(body).digest()).decode() != said:
                    return self._answer(400, {}, BAD_DIGEST)
                with one_by_one:
                    server = HTTPConnection(address)
                    server.request(self.command, self.path, body, dict(self.headers))
                    found = server.getresponse()
                    answer, headers = found.read(), dict(found.getheaders())
                if found.status == 500 and "uploadId=" in what:
                    return self._answer(404, {}, NO_SUCH_UPLOAD)
                if self.command == "GET" and fault == "flip":
                    answer = _flipped(answer)
                self._answer(found.status, headers, answer, cut=self.command == "GET" and fault == "cut")
                return None

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do  # noqa: N815

            def _answer(self, status: int, headers: dict[str, str], body: bytes, cut: bool = False) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in HOP_BY_HOP or (self.command == "HEAD" and name.lower() == "content-length"):
                        self.send_header(name, value)
                if self.command != "HEAD":
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if cut else body)
                if cut:
                    self._hang_up()

            def _hang_up(self) -> None:
                self.close_connection = True
                self.connection.close()

            def log_message(self, *_: object) -> None:
                """Say nothing: ``seen`` tells."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Pass)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def take(self, method: str, having: str) -> list[str]:
        """What was asked for by that method since the last time, sorted; what names no such thing is left out."""
        found = sorted(what for seen, what in self.seen if seen == method and having in what)
        self.seen.clear()
        return found


def _flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body
