"""Damaged responses from Kaggle: each call returns valid values or raises carclf's errors."""

import dataclasses
import io
import json
import math
import random
import socket
import socketserver
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mutations import flip_bits, mutation_counts, repeat, truncate

from carclf.errors import CarclfError
from carclf.services.kaggle.calls import UnknownOutcomeError
from carclf.services.kaggle.client import KaggleClient, SubmissionLimits, SubmissionState
from carclf.services.kaggle.datasets import DatasetClient

SUBMISSION = {"ref": 1001, "totalBytes": 90, "date": "2026-03-01T12:00:00.0000000Z", "description": "carclf abc",
              "errorDescription": "", "fileName": "s.csv", "publicScore": "0.5", "status": "COMPLETE"}
FILE = {"ref": "a.csv", "name": "a.csv", "totalBytes": 5, "creationDate": "2026-03-01T12:00:00.0000000Z"}
RESPONSES: dict[str, dict[str, Any]] = {
    "ListDataFiles": {"files": [FILE], "nextPageToken": ""},
    "StartSubmissionUpload": {"token": "upload-0", "createUrl": "/upload"},
    "CreateSubmission": {"message": "Successfully submitted", "ref": 1001},
    "GetSubmission": SUBMISSION,
    "ListSubmissions": {"submissions": [SUBMISSION, SUBMISSION | {"publicScore": ""}], "nextPageToken": ""},
    "GetLeaderboard": {"submissions": [{"teamId": 1, "score": "0.9"}, {"teamId": 2, "score": "0.1"}]},
    "GetCompetition": {"ref": "demo-cars", "title": "Cars", "evaluationMetric": "Log Loss", "submissionsDisabled": True,
                       "isKernelsSubmissionsOnly": False, "deadline": "2026-03-01T12:00:00.0000000Z"},
    "GetDataset": {"ref": "ford/cars", "currentVersionNumber": 2, "versions": [{"versionNumber": 1, "status": "READY"},
                                                                               {"versionNumber": 2}]},
    "GetDatasetStatus": {"status": "READY"},
    "ListDatasetFiles": {"datasetFiles": [FILE], "nextPageToken": ""},
    "GetDatasetFilesSummary": {"fileSummaryInfo": {"totalFileCount": 5, "fileTypes": [
        {"extension": ".jpg", "fileCount": 5, "totalSize": 50}]}},
    "GetSubmissionLimits": {"numToday": 1, "numTotal": 3, "numAllowedNow": 4, "limitedByTotal": False},
}
ODD_VALUES = (None, "", "x", "nan", "1e999", -1, 0, 1.5, True, 10**30, math.inf, math.nan, [], {}, [[]], "é\n\x1b[31m",
              "http://[::1", "//", "\ud800")  # fmt: skip
ODD_HEADERS = (
    "Content-Length: x", "Content-Length: -5", "Content-Length: 99999", "Content-Length: 1, 2", "Retry-After: ²",
    "Content-Encoding: gzip", "Transfer-Encoding: chunked", "Content-Type: text/html", "Location: http://[",
    "Content-Type: application/json; charset=x", "Retry-After: Mon, 99 Foo 99999 00:00:00", "Location: /elsewhere",
    "Retry-After: " + "9" * 400,
    "ETag: \xff", "Content-Range: bytes x", ":", "X" * 70_000,
)  # fmt: skip
ODD_STATUSES = (100, 101, 204, 206, 301, 302, 307, 400, 401, 404, 416, 429, 500, 599, 999)


def small_archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.csv", "Id,Category\n")
    return buffer.getvalue()


ARCHIVE = small_archive()


def format_response(
    body: bytes, status: int = 200, headers: tuple[str, ...] = ("Content-Type: application/json",)
) -> bytes:
    head = "\r\n".join((f"HTTP/1.1 {status} Status", *headers, f"Content-Length: {len(body)}", "Connection: close"))
    return head.encode("latin-1", "replace") + b"\r\n\r\n" + body


class Kaggle(socketserver.ThreadingTCPServer):
    """Serves valid responses, except to one method or path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        upload = {"token": "upload-0", "createUrl": f"{self.url}/upload"}
        self.valid = {name: format_response(json.dumps(value).encode()) for name, value in RESPONSES.items()}
        self.valid |= {
            "StartSubmissionUpload": format_response(json.dumps(upload).encode()),
            "upload": format_response(b"{}"),
            "DownloadDataset": format_response(b"", 302, ("Location: /archive",)),
            "DownloadDataFiles": format_response(b"", 302, ("Location: /archive",)),
            "archive": format_response(ARCHIVE, headers=("Content-Type: application/zip", 'ETag: "a"')),
        }
        self.damaged: dict[str, bytes] = {}


class Handler(socketserver.StreamRequestHandler):
    server: Kaggle

    def handle(self) -> None:
        name = self.rfile.readline().split(b" ")[1].rpartition(b"/")[2].decode("latin-1")
        size = 0
        while (line := self.rfile.readline()).strip():
            if line.lower().startswith(b"content-length:"):
                size = int(line.partition(b":")[2])
        self.rfile.read(size)
        self.wfile.write(self.server.damaged.get(name) or self.server.valid.get(name, b""))


@pytest.fixture
def kaggle(no_kaggle_credentials: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kaggle]:
    def resolve(host: str, *arguments: Any) -> Any:
        if host != "127.0.0.1":  # damaged URLs must not reach other machines
            raise socket.gaierror(host)
        return getaddrinfo(host, *arguments)

    getaddrinfo = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with Kaggle() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", server.url)
        monkeypatch.setenv("KAGGLE_API_TOKEN", "demo-key")
        yield server
        server.shutdown()


def change_value(random: random.Random, response: bytes) -> bytes:
    """Replace one of the values of a JSON body, or the whole body."""
    head, _, body = response.partition(b"\r\n\r\n")
    try:
        content: Any = json.loads(body)
    except (ValueError, RecursionError):
        return flip_bits(random, response)
    parents = [entry for entry in walk(content) if entry]
    if not parents or random.random() < 0.1:
        content = random.choice(ODD_VALUES)
    else:
        parent = random.choice(parents)
        key = random.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        parent[key] = random.choice(ODD_VALUES)
    changed = json.dumps(content, ensure_ascii=random.random() < 0.5).encode("utf-8", "replace")
    length = b"Content-Length: %d" % len(body)
    return head.replace(length, b"Content-Length: %d" % len(changed)) + b"\r\n\r\n" + changed


def walk(value: Any) -> Iterator[Any]:
    """Yield every list and object in a JSON value."""
    if isinstance(value, list | dict):
        yield value
        for child in value if isinstance(value, list) else value.values():
            yield from walk(child)


def change_status(random: random.Random, response: bytes) -> bytes:
    """Change the status; with some, send Kaggle's error message."""
    status = random.choice(ODD_STATUSES)
    if random.random() < 0.5:
        return response.replace(b" 200 ", b" %d " % status, 1)
    code = random.choice((status, str(status), float(status), math.inf, None))
    return format_response(json.dumps({"code": code, "message": random.choice(ODD_VALUES)}).encode(),
                           random.choice((200, status)))


def change_header(random: random.Random, response: bytes) -> bytes:
    header = random.choice(ODD_HEADERS).encode("latin-1", "replace")
    line, _, rest = response.partition(b"\r\n")
    return line + b"\r\n" + header + b"\r\n" + rest


def nest(_: random.Random, response: bytes) -> bytes:
    return format_response(b"[" * 20_000 + b'{"a":' * 20_000)


MUTATIONS = (flip_bits, truncate, repeat, nest, *[change_value, change_status, change_header] * 3)


def check_files(kaggle: KaggleClient, _: Path) -> None:
    assert all(list(map(type, file)) == [str, int, str] for file in kaggle.list_files())


def check_state(state: SubmissionState | None) -> None:
    if state is not None:
        assert type(state.ref) is int and state.status in ("PENDING", "COMPLETE", "ERROR")
        assert state.public_score is None or math.isfinite(state.public_score)
        assert type(state.error) is type(state.description) is str


def check_submissions(kaggle: KaggleClient, _: Path) -> None:
    for state in kaggle.list_submissions():
        check_state(state)


def check_limits(kaggle: KaggleClient, _: Path) -> None:
    limits = kaggle.submission_limits()
    assert limits is None or isinstance(limits, SubmissionLimits)
    assert limits is None or type(limits.num_today) is type(limits.num_total) is type(limits.num_allowed_now) is int


def check_rank(kaggle: KaggleClient, _: Path) -> None:
    assert kaggle.leaderboard_rank(0.5) in (None, 1, 2, 3)


def check_upload(kaggle: KaggleClient, folder: Path) -> None:
    (folder / "s.csv").write_text("Id,Category\n")
    assert type(kaggle.upload(folder / "s.csv")) is str


def check_creation(kaggle: KaggleClient, _: Path) -> None:
    assert kaggle.create_submission("upload-0", "carclf abc") > 0


def check_download(kaggle: KaggleClient, folder: Path) -> None:
    assert zipfile.ZipFile(kaggle.download(folder, timeout_seconds=60)).namelist()


def check_details(kaggle: KaggleClient, _: Path) -> None:
    details = kaggle.details()
    assert {type(value) for value in dataclasses.astuple(details)} == {str, bool}
    assert type(details.submission_obstacle) is str


def connect_to_dataset() -> DatasetClient:
    return DatasetClient("ford/cars", max_attempts=1, read_timeout_seconds=0.5)


def check_version(_: KaggleClient, __: Path) -> None:
    assert connect_to_dataset().resolve(0) > 0
    assert connect_to_dataset().resolve(1) == 1


def check_dataset_files(_: KaggleClient, __: Path) -> None:
    assert all(list(map(type, file)) == [str, int, str] for file in connect_to_dataset().list_files(1))


def check_extensions(_: KaggleClient, __: Path) -> None:
    for entry in connect_to_dataset().list_extensions(1):
        assert list(map(type, dataclasses.astuple(entry))) == [str, int, int]


def check_dataset_download(_: KaggleClient, folder: Path) -> None:
    assert zipfile.ZipFile(connect_to_dataset().download(1, folder, timeout_seconds=60)).namelist()


CALLS: dict[str, Callable[[KaggleClient, Path], None]] = {
    "GetCompetition": check_details, "GetDataset": check_version, "GetDatasetStatus": check_version,
    "ListDatasetFiles": check_dataset_files, "GetDatasetFilesSummary": check_extensions,
    "DownloadDataset": check_dataset_download,
    "ListDataFiles": check_files, "ListSubmissions": check_submissions, "GetSubmissionLimits": check_limits,
    "GetSubmission": lambda kaggle, _: check_state(kaggle.read_submission(1001, "abc")), "GetLeaderboard": check_rank,
    "StartSubmissionUpload": check_upload, "upload": check_upload, "CreateSubmission": check_creation,
    "DownloadDataFiles": check_download, "archive": check_download,
}


@mutation_counts(120)
def test_a_damaged_response_gives_valid_values_or_an_error_of_carclf(num: int, kaggle: Kaggle, tmp_path: Path) -> None:
    outcomes = {"used": 0, "rejected": 0}
    client = KaggleClient("demo-cars", max_attempts=1, read_timeout_seconds=0.5)
    for number in range(num):
        chance = random.Random(number)
        name = chance.choice(list(CALLS))
        response = kaggle.valid[name]
        for _ in range(chance.choice((1, 1, 2))):
            response = chance.choice(MUTATIONS)(chance, response) or b"H"
        kaggle.damaged = {name: response}
        try:
            CALLS[name](client, tmp_path)
            outcomes["used"] += 1
        except (CarclfError, UnknownOutcomeError) as error:
            assert str(error), number
            outcomes["rejected"] += 1
        except Exception as error:
            raise AssertionError(f"mutation {number}: {name} {response[:400]!r}") from error
    assert min(outcomes.values()) > 0
