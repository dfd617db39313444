"""Mutated HTTP requests: the demo server responds or closes the connection, and keeps working."""

import base64
import json
import logging
import random
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import product

import pytest
from mutations import Mutation, flip_bits, mutation_counts, repeat, splice, truncate

from carclf.demo.competition import Competition, ServedDataset
from carclf.demo.kaggle_backend import METHODS
from carclf.demo.request_handler import DOWNLOAD_METHODS, METHODS_BY_SERVICE
from carclf.demo.server import MAX_CONNECTIONS, DemoServer

SLUG = "demo-cars"
SECONDS = 20  # a generous limit: a response takes a millisecond
# Every other status from 500 on is a fault of the server.
SERVER_STATUSES = {501, 503, 505}
NAMES = ("Content-Length", "Transfer-Encoding", "Authorization", "Range", "If-Range", "Expect", "Connection", "Host")
VALUES = ("-1", "0", "5", "99999999999", "chunked", "gzip, chunked", "bytes=0-", "bytes=-5", f"bytes={'9' * 5000}-",
          "100-continue", "close", "keep-alive", "", "Basic ====", "\xff", "x" * 70_000)
JSON_VALUES = ("null", "[]", "-1", "1e999", "Infinity", '"\\ud800"', "[" * 5000, '{"a":' * 5000, "9" * 5000, "true")
TARGETS = ("//[", "http://[::1", "/upload/%00", "/download/..%2f..%2fx?signature=%ff", "*", "/" + "a" * 70_000, "?")


@pytest.fixture
def server(competition: Competition) -> Iterator[DemoServer]:
    dataset = ServedDataset("ford", "cars", 1, competition.archive)
    with DemoServer(competition, dataset, scoring_seconds=0, daily_limit=20) as running:
        yield running


def requests_of(server: DemoServer) -> list[bytes]:
    """Return a valid request of each kind."""
    basic = base64.b64encode(f"{server.username}:{server.token}".encode()).decode()
    head = f"Host: x\r\nAuthorization: Basic {basic}\r\n"
    upload = server.handle_call("StartSubmissionUpload", {"competitionName": SLUG, "fileName": "a.csv"})
    fields = {"competitionName": SLUG, "ref": 1001, "pageSize": 5, "pageToken": "1", "fileName": "train.csv",
              "blobFileTokens": upload["token"], "submissionDescription": "a", "ownerSlug": "ford",
              "datasetSlug": "cars", "datasetVersionNumber": 1}
    body = json.dumps(fields)
    head += f"Content-Length: {len(body)}\r\n"
    calls = [f"POST /v1/{service}/{method} HTTP/1.1\r\n{head}\r\n{body}"
             for service, method in product(METHODS_BY_SERVICE, sorted(METHODS | DOWNLOAD_METHODS))
             if method in METHODS_BY_SERVICE[service]]
    chunks = f"PUT /upload/{upload['token']} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nId,Ca\r\n0\r\n\r\n"
    path = f"/download/{SLUG}.zip?signature={server.signature}"
    download = f"GET {path} HTTP/1.1\r\nRange: bytes=10-\r\nConnection: close\r\n\r\n"
    return [text.encode() for text in (*calls, chunks, download)]


def change_header(random: random.Random, data: bytes) -> bytes:
    """Add a header; replace it if it is there, half of the time."""
    line = f"{(name := random.choice(NAMES))}: {random.choice(VALUES)}\r\n".encode("latin-1")
    pattern = rb"\r\n" if random.random() < 0.5 else rf"\r\n({name}: [^\r]*\r\n)?".encode()
    return re.sub(pattern, lambda _: b"\r\n" + line, data, count=1)


def change_value(random: random.Random, data: bytes) -> bytes:
    """Replace a value of the JSON body, and correct the length."""
    head, _, body = data.partition(b"\r\n\r\n")
    body = re.sub(rb'("\w+": )[^,}]+', lambda match: match[1] + random.choice(JSON_VALUES).encode(), body,
                  count=random.randrange(1, 4))
    return re.sub(rb"Content-Length: \d+", b"Content-Length: %d" % len(body), head) + b"\r\n\r\n" + body


def change_target(random: random.Random, data: bytes) -> bytes:
    return re.sub(rb" \S*", b" " + random.choice(TARGETS).encode(), data, count=1)


def send(server: DemoServer, request: bytes) -> bytes:
    """Return everything that the server sends until it closes the connection; TimeoutError if it does not."""
    port = int(server.url.rpartition(":")[2])
    received = b""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as connection:
        with suppress(OSError):  # the server rejects the request before its end
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            while part := connection.recv(1 << 16):
                received += part
    return received


def fuzz_requests(server: DemoServer, num: int) -> Counter[int]:
    """Send mutated requests; return the number of responses by status."""
    seeds = requests_of(server)
    mutations: tuple[Mutation, ...] = (
        flip_bits, truncate, repeat, splice(seeds), change_header, change_value, change_target,
    )
    statuses: Counter[int] = Counter()
    for number in range(num):
        chance = random.Random(number)
        request = chance.choice(seeds)
        for _ in range(chance.choice((1, 1, 2, 3))):
            request = chance.choice(mutations)(chance, request) or b"\r\n"
        received = [int(status) for status in re.findall(rb"^HTTP/1\.1 (\d+)", send(server, request), re.MULTILINE)]
        assert not [status for status in received if status >= 500 and status not in SERVER_STATUSES], number
        statuses.update(received)
    return statuses


@mutation_counts(300)
def test_mutated_requests_leave_a_working_server(
    server: DemoServer, num: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "carclf.demo.server")
    statuses = fuzz_requests(server, num)
    failures = {record.exc_info[0] for record in caplog.records if record.exc_info}
    assert all(issubclass(kind, OSError) for kind in failures if kind), failures  # the client has left
    assert {200, 206, 400, 401, 404} <= set(statuses)
    assert sum("process_request_thread" in thread.name for thread in threading.enumerate()) <= MAX_CONNECTIONS
    assert sum(not entry.error for entry in server.submissions) <= server.daily_limit
    intact = send(server, next(request for request in requests_of(server) if b"/ListSubmissions" in request))
    assert intact.startswith(b"HTTP/1.1 200")
