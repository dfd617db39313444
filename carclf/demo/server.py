"""A loopback server that speaks Kaggle's protocol to the real client, and breaks it on demand.

Source of the wire format: the code of kaggle 2.2.4 and kagglesdk. The live service was not compared.
"""

import base64
import hashlib
import json
import logging
import re
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

from carclf.demo.competition import Competition, grade

log = logging.getLogger(__name__)
FaultKind = Literal["status", "drop", "truncate", "html", "drop_after", "stall", "corrupt"]


@dataclass
class Fault:
    """What goes wrong at the next ``times`` calls of a method ("Download" and "Upload" are the bodies)."""

    method: str
    kind: FaultKind
    status: int = 500
    retry_after: int | None = None
    times: int = 1


@dataclass
class Entry:
    """A submission as the server keeps it."""

    ref: int
    description: str
    file_name: str
    score: str
    error: str
    num_bytes: int
    created: float = field(default_factory=time.time)


class Refused(Exception):
    """An answer with an error status and Kaggle's JSON."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class DemoServer:
    """One competition on 127.0.0.1; a context manager that serves in a thread."""

    def __init__(
        self, competition: Competition, *, port: int = 0, token: str = "demo-key", username: str = "demo",
        daily_limit: int = 50, scoring_seconds: float = 0.5, rules_accepted: bool = True,
    ) -> None:
        self.competition, self.daily_limit, self.scoring_seconds = competition, daily_limit, scoring_seconds
        self.rules_accepted = rules_accepted
        basic = base64.b64encode(f"{username}:{token}".encode()).decode()
        self.credentials = {f"Basic {basic}", f"Bearer {token}"}
        self.submissions: list[Entry] = []
        self.uploads: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", port), type("Bound", (_Handler,), {"demo": self}))
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def serve_forever(self) -> None:
        """Serve until ``close`` is called from another thread."""
        self.http.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        """Stop serving and free the port."""
        self.http.shutdown()
        self.http.server_close()

    def __enter__(self) -> "DemoServer":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def next_fault(self, method: str) -> Fault | None:
        """Take the next planned fault of a method, if there is one."""
        with self.lock:
            for fault in self.faults:
                if fault.method == method and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    def answer(self, method: str, request: dict[str, Any]) -> dict[str, Any]:
        """The JSON answer to one call of the API; Refused where Kaggle would refuse."""
        if method != "GetSubmission" and request.get("competitionName") != self.competition.slug:
            raise Refused(404, "Competition not found")
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", method).lower()
        call = getattr(self, f"_{name}", None)
        if call is None:
            raise Refused(404, f"{method} is not served here")
        with self.lock:
            result: dict[str, Any] = call(request)
        return result

    def _list_data_files(self, _: dict[str, Any]) -> dict[str, Any]:
        self._require_rules()
        archive = self.competition.archive
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        # the date stands for the content, so that an unchanged folder is an unchanged competition
        date = datetime.fromtimestamp(1_500_000_000 + int(digest[:7], 16), UTC).strftime("%Y-%m-%dT%H:%M:%S.0000000Z")
        names = ("sample-submission.csv", "train.csv", "train.zip", "test.zip")
        size = archive.stat().st_size
        return {"files": [{"ref": name, "name": name, "totalBytes": size, "creationDate": date} for name in names],
                "nextPageToken": ""}

    def _require_rules(self) -> None:
        if not self.rules_accepted:
            raise Refused(403, "You must accept this competition's rules before you'll be able to download files.")

    def _start_submission_upload(self, request: dict[str, Any]) -> dict[str, Any]:
        self._require_rules()
        token = f"upload-{len(self.uploads)}-{request['fileName']}"
        self.uploads[token] = b""
        return {"token": token, "createUrl": f"{self.url}/upload/{token}"}

    def _create_submission(self, request: dict[str, Any]) -> dict[str, Any]:
        if len(self.submissions) >= self.daily_limit:
            raise Refused(400, "You have reached your daily submission limit.")
        token = request.get("blobFileTokens", "")
        if not self.uploads.get(token):
            raise Refused(400, "The upload is missing")
        score, error = grade(self.competition, self.uploads[token])
        name = token.split("-", 2)[2]
        entry = Entry(len(self.submissions) + 1001, request.get("submissionDescription", ""), name, score, error,
                      len(self.uploads[token]))
        self.submissions.append(entry)
        return {"message": f"Successfully submitted to {self.competition.slug}", "ref": entry.ref}

    def _as_json(self, entry: Entry) -> dict[str, Any]:
        pending = time.time() - entry.created < self.scoring_seconds
        status = "PENDING" if pending else "ERROR" if entry.error else "COMPLETE"
        date = datetime.fromtimestamp(entry.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.0000000Z")
        return {"ref": entry.ref, "totalBytes": entry.num_bytes, "date": date, "description": entry.description,
                "errorDescription": "" if pending else entry.error, "fileName": entry.file_name, "status": status,
                "publicScore": "" if pending else entry.score, "privateScore": ""}

    def _get_submission(self, request: dict[str, Any]) -> dict[str, Any]:
        for entry in self.submissions:
            if entry.ref == request.get("ref"):
                return self._as_json(entry)
        raise Refused(404, "Submission not found")

    def _list_submissions(self, request: dict[str, Any]) -> dict[str, Any]:
        size = int(request.get("pageSize") or 20)
        start = int(request.get("pageToken") or (max(int(request.get("page") or 1), 1) - 1) * size)
        newest_first = self.submissions[::-1]
        more = str(start + size) if start + size < len(newest_first) else ""
        return {"submissions": [self._as_json(entry) for entry in newest_first[start : start + size]],
                "nextPageToken": more}

    def _get_leaderboard(self, _: dict[str, Any]) -> dict[str, Any]:
        best = sorted((entry.score for entry in self.submissions if entry.score), reverse=True)[:1]
        return {"submissions": [{"teamId": 1, "teamName": "demo", "score": score} for score in best],
                "nextPageToken": ""}

    def _get_submission_limits(self, _: dict[str, Any]) -> dict[str, Any]:
        used = len(self.submissions)
        return {"numToday": used, "numTotal": used, "numAllowedNow": max(0, self.daily_limit - used),
                "limitedByTotal": False}


class _Handler(BaseHTTPRequestHandler):
    demo: DemoServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        method = path.rpartition("/")[2]
        try:
            if self.headers.get("Authorization") not in self.demo.credentials:
                raise Refused(401, "Unauthorized")
            fault = self.demo.next_fault(method)
            if fault and fault.kind != "drop_after":
                return self._break(fault)
            if method in ("DownloadDataFiles", "DownloadDataFile"):
                return self._redirect(json.loads(body or b"{}"))
            answer = self.demo.answer(method, json.loads(body or b"{}"))
            if fault:
                return self._drop()
            self._send(200, json.dumps(answer).encode())
        except Refused as refused:
            self._send(refused.status, json.dumps({"code": refused.status, "message": refused.message}).encode())

    def _redirect(self, request: dict[str, Any]) -> None:
        if request.get("competitionName") != self.demo.competition.slug:
            raise Refused(404, "Competition not found")
        if not self.demo.rules_accepted:
            raise Refused(403, "You must accept this competition's rules before you'll be able to download files.")
        location = f"{self.demo.url}/download/{self.demo.competition.slug}.zip?signature=demo"
        self._send(302, b"", {"Location": location})

    def do_GET(self) -> None:
        if urlsplit(self.path).path != f"/download/{self.demo.competition.slug}.zip":
            return self._send(404, b'{"code": 404, "message": "Not Found"}')
        data = self.demo.competition.archive.read_bytes()
        fault = self.demo.next_fault("Download")
        if fault and fault.kind in ("status", "html", "stall"):
            return self._break(fault)
        if fault and fault.kind == "truncate":
            data = data[: len(data) // 2]
        if fault and fault.kind == "corrupt":
            middle = len(data) // 2
            data = data[:middle] + bytes(byte ^ 255 for byte in data[middle : middle + 64]) + data[middle + 64 :]
        self._send_archive(data, cut=fault is not None and fault.kind == "drop")

    def _send_archive(self, data: bytes, *, cut: bool) -> None:
        etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
        headers = {"ETag": etag, "Accept-Ranges": "bytes", "Last-Modified": "Wed, 01 Jan 2020 00:00:00 GMT",
                   "Content-Type": "application/zip"}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start, status = 0, 200
        if wanted and self.headers.get("If-Range") in (None, etag):
            start, status = int(wanted[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(status, data[start:], headers, cut_at=(len(data) - start) // 2 if cut else None)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.demo.next_fault("Upload")
        if fault:
            return self._break(fault)
        token = urlsplit(self.path).path.removeprefix("/upload/")
        with self.demo.lock:
            known = token in self.demo.uploads
            if known:
                self.demo.uploads[token] = body
        self._send(200 if known else 404, b"{}")

    def _break(self, fault: Fault) -> None:
        if fault.kind == "drop":
            self._drop()
        elif fault.kind == "stall":
            time.sleep(30)
            self._drop()
        elif fault.kind == "html":
            self._send(200, b"<html>Please wait</html>", {"Content-Type": "text/html"})
        else:
            extra = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            text = json.dumps({"code": fault.status, "message": f"planned fault {fault.status}"})
            self._send(fault.status, text.encode(), extra)

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut_at: int | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if cut_at is None else body[:cut_at])
        if cut_at is not None:
            self.wfile.flush()
            self._drop()
