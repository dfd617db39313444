"""Kaggle's side of the protocol for one competition: its data files, uploads and submissions.

The wire format is that of kaggle 2.2.4 and kagglesdk. It has not been compared with the live service.
"""

import base64
import json
import re
import secrets
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

from carclf.demo.competition import Competition, grade
from carclf.demo.served_files import digest, member_sizes

Json = dict[str, Any]
FIRST_REF = 1001
MAX_UPLOADS = 100  # are kept in memory
CREATION_EPOCH = 1_500_000_000  # the first creation date of an archive, in seconds
DAILY_LIMIT_MESSAGE = "Your team has used its daily Submission allowance today, please try again tomorrow UTC."
METHODS = frozenset({
    "ListDataFiles", "StartSubmissionUpload", "CreateSubmission", "GetSubmission", "ListSubmissions",
    "GetLeaderboard", "GetSubmissionLimits",
})  # fmt: skip


@dataclass
class SubmissionEntry:
    """A submission as the server stores it."""

    ref: int
    description: str
    file_name: str
    score: str
    error: str
    data: bytes
    created: float = field(default_factory=time.time)
    listed_at: float = 0.0  # it is counted at once, and listed from this time

    @property
    def date(self) -> str:
        """The time of the submission in Kaggle's format."""
        return _format_time(self.created)


@dataclass
class Upload:
    """An announced file; ``data`` is None until the upload arrives."""

    file_name: str
    data: bytes | None = None


class ApiError(Exception):
    """A response with an error status and Kaggle's JSON."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.0000000Z")


class KaggleBackend:
    """One competition and one user's submissions; thread-safe."""

    def __init__(
        self, competition: Competition, *, daily_limit: int, scoring_seconds: float,
        submissions_path: Path | None = None,
    ) -> None:
        self.competition = competition
        self.daily_limit = daily_limit
        self.scoring_seconds = scoring_seconds
        self.list_lag_seconds = 0.0  # of new submissions
        self.rules_accepted = True
        self.submissions_path = submissions_path
        self.submissions = self._load_submissions()
        self.uploads: dict[str, Upload] = {}
        self.url = ""
        self.lock = threading.Lock()

    def save_submissions(self) -> None:
        """Write the submissions to the file that the next server reads."""
        if self.submissions_path is None:
            return
        rows = [{"ref": entry.ref, "description": entry.description, "file_name": entry.file_name,
                 "created": entry.created, "data": base64.b64encode(entry.data).decode()} for entry in self.submissions]
        partial = self.submissions_path.with_suffix(".partial")
        partial.write_text(json.dumps(rows))
        partial.replace(self.submissions_path)

    def _load_submissions(self) -> list[SubmissionEntry]:
        """Return the submissions of earlier servers, graded again: the truth may have been added since."""
        if self.submissions_path is None or not self.submissions_path.exists():
            return []
        entries = []
        for row in json.loads(self.submissions_path.read_text()):
            row["data"] = base64.b64decode(row["data"])
            score, error = grade(self.competition, row["data"])
            entries.append(SubmissionEntry(**row, score=score, error=error))
        return entries

    def require_competition(self, request: Json) -> None:
        """Raise ApiError (404) unless the request is for this competition."""
        if request.get("competitionName") != self.competition.slug:
            raise ApiError(HTTPStatus.NOT_FOUND, "Competition not found")

    def require_rules_accepted(self) -> None:
        """Raise ApiError (403) with Kaggle's message unless the user has accepted the rules."""
        if not self.rules_accepted:
            raise ApiError(HTTPStatus.FORBIDDEN,
                           "You must accept this competition's rules before you'll be able to download files.")

    def handle_call(self, method: str, request: Json) -> Json:
        """Return the JSON response to an API call; raise ApiError where Kaggle responds with an error."""
        if method not in METHODS:
            raise ApiError(HTTPStatus.NOT_FOUND, f"{method} is not served here")
        if method != "GetSubmission":
            self.require_competition(request)
        call = getattr(self, "_" + re.sub(r"(?<!^)(?=[A-Z])", "_", method).lower())
        with self.lock:
            result: Json = call(request)
        return result

    def receive_upload(self, token: str, data: bytes) -> bool:
        """Keep the data of an announced upload; return False if it was not announced."""
        with self.lock:
            if token in self.uploads:
                self.uploads[token].data = data
            return token in self.uploads

    def _list_data_files(self, _: Json) -> Json:
        self.require_rules_accepted()
        archive = self.competition.archive
        # Derive the date from the content: the client must see an unchanged folder as an unchanged competition.
        date = _format_time(CREATION_EPOCH + int(digest(archive)[:7], 16))
        files = [{"ref": name, "name": name, "totalBytes": num_bytes, "creationDate": date}
                 for name, num_bytes in member_sizes(archive).items()]
        return {"files": files, "nextPageToken": ""}

    def _start_submission_upload(self, request: Json) -> Json:
        self.require_rules_accepted()
        token = secrets.token_hex(16)  # whoever has the URL may upload
        self.uploads[token] = Upload(str(request.get("fileName", "")))
        if len(self.uploads) > MAX_UPLOADS:
            del self.uploads[next(iter(self.uploads))]  # the oldest
        return {"token": token, "createUrl": f"{self.url}/upload/{token}"}

    def _create_submission(self, request: Json) -> Json:
        self.require_rules_accepted()
        if self._num_today() >= self.daily_limit:
            raise ApiError(HTTPStatus.BAD_REQUEST, DAILY_LIMIT_MESSAGE)
        upload = self.uploads.get(str(request.get("blobFileTokens", "")))
        if upload is None or upload.data is None:
            raise ApiError(HTTPStatus.BAD_REQUEST, "The upload is missing")
        score, error = grade(self.competition, upload.data)
        description = str(request.get("submissionDescription") or "")
        ref = len(self.submissions) + FIRST_REF
        now = time.time()
        self.submissions.append(SubmissionEntry(ref, description, upload.file_name, score, error, upload.data, now,
                                                now + self.list_lag_seconds))
        self.save_submissions()
        return {"message": f"Successfully submitted to {self.competition.slug}", "ref": ref}

    def _num_today(self) -> int:
        today = _format_time(time.time())[:10]
        return sum(entry.date[:10] == today for entry in self.submissions if not entry.error)

    def _is_pending(self, entry: SubmissionEntry) -> bool:
        return time.time() - entry.created < self.scoring_seconds

    def _as_json(self, entry: SubmissionEntry) -> Json:
        pending = self._is_pending(entry)
        return {
            "ref": entry.ref, "totalBytes": len(entry.data), "date": entry.date, "description": entry.description,
            "errorDescription": "" if pending else entry.error, "fileName": entry.file_name,
            "status": "PENDING" if pending else "ERROR" if entry.error else "COMPLETE",
            "publicScore": "" if pending else entry.score, "privateScore": "",
        }

    def _get_submission(self, request: Json) -> Json:
        for entry in self.submissions:
            if entry.ref == request.get("ref"):
                return self._as_json(entry)
        raise ApiError(HTTPStatus.NOT_FOUND, "Submission not found")

    def _list_submissions(self, request: Json) -> Json:
        size = int(request.get("pageSize") or 20)
        start = int(request.get("pageToken") or (max(int(request.get("page") or 1), 1) - 1) * size)
        newest_first = [entry for entry in reversed(self.submissions) if entry.listed_at <= time.time()]
        page = [self._as_json(entry) for entry in newest_first[start : start + size]]
        return {"submissions": page, "nextPageToken": str(start + size) if start + size < len(newest_first) else ""}

    def _get_leaderboard(self, _: Json) -> Json:
        scored = [entry for entry in self.submissions if entry.score and not self._is_pending(entry)]
        best = sorted(scored, key=lambda entry: float(entry.score), reverse=True)[:1]
        rows = [{"teamId": 1, "teamName": "demo", "submissionDate": entry.date, "score": entry.score} for entry in best]
        return {"submissions": rows, "nextPageToken": ""}

    def _get_submission_limits(self, _: Json) -> Json:
        used = self._num_today()
        allowed = max(0, self.daily_limit - used)
        total = sum(not entry.error for entry in self.submissions)
        return {"numToday": used, "numTotal": total, "numAllowedNow": allowed, "limitedByTotal": False}
