"""A proxy in front of an S3 server that cuts connections and damages bytes.

It rejects damaged uploads, as S3 does and moto does not.
"""

import base64
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

Fault = Callable[[str, str], str | None]
HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "date", "server"}
BAD_DIGEST = b"<Error><Code>BadDigest</Code><Message>The checksum did not match.</Message></Error>"


@dataclass(frozen=True)
class Response:
    """A server's response."""

    status: int
    headers: dict[str, str]
    body: bytes


class FaultyProxy:
    """Forwards requests to ``endpoint``.

    ``fault(method, target)`` chooses what happens to a request: None, "cut" (the connection breaks halfway), "flip" (a
    bit of the body changes) or "lose" (the server gets the request, the client no response). ``target`` is the range of
    a download or the query of the URL.
    """

    def __init__(self, endpoint: str) -> None:
        self.requests: list[tuple[str, str]] = []
        self.uploads_without_checksum = 0
        self.fault: Fault = lambda method, target: None
        self.server_address = urlsplit(endpoint).netloc
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (ProxyHandler,), {"proxy": self}))
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def take_requests(self, method: str, containing: str) -> list[str]:
        """Return the sorted targets of matching requests since the last call."""
        targets = sorted(target for seen, target in self.requests if seen == method and containing in target)
        self.requests.clear()
        return targets


class ProxyHandler(BaseHTTPRequestHandler):
    """Handles the requests of one connection."""

    protocol_version = "HTTP/1.1"
    proxy: FaultyProxy

    def handle_request(self) -> None:
        target = self.headers.get("Range") or self.path.partition("?")[2]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.proxy.requests.append((self.command, target))
        fault = self.proxy.fault(self.command, target)
        if self.command == "PUT" and fault == "cut":
            self.hang_up()
            return
        if self.command == "PUT" and fault == "flip":
            body = flip_bit(body)
        if self.is_damaged(body):
            self.respond(Response(400, {}, BAD_DIGEST))
            return
        response = self.forward(body)
        if fault == "lose":
            self.hang_up()
        elif self.command == "GET" and fault == "flip":
            self.respond(Response(response.status, response.headers, flip_bit(response.body)))
        else:
            self.respond(response, cut=self.command == "GET" and fault == "cut")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_request  # noqa: N815

    def is_damaged(self, body: bytes) -> bool:
        checksum = self.headers.get("x-amz-checksum-crc32")
        if self.command == "PUT" and checksum is None:
            self.proxy.uploads_without_checksum += 1
        return checksum is not None and base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode() != checksum

    def forward(self, body: bytes) -> Response:
        server = HTTPConnection(self.proxy.server_address)
        server.request(self.command, self.path, body, dict(self.headers))
        response = server.getresponse()
        return Response(response.status, dict(response.getheaders()), response.read())

    def respond(self, response: Response, cut: bool = False) -> None:
        self.send_response(response.status)
        for name, value in response.headers.items():
            if name.lower() not in HOP_BY_HOP or (self.command == "HEAD" and name.lower() == "content-length"):
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        self.wfile.write(response.body[: len(response.body) // 2] if cut else response.body)
        if cut:
            self.hang_up()

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def log_message(self, *_: object) -> None:
        """Print nothing: the proxy records the requests."""


def flip_bit(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body
