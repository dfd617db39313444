"""What Kaggle knows and answers: one competition, its uploads and submissions, call by call.

Source of the wire format: the code of kaggle 2.2.4 and kagglesdk. The live service was not compared.
"""

import base64
import json
import re
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from carclf.demo.competition import Competition, grade
from carclf.demo.served_files import digest, member_sizes

Json = dict[str, Any]
METHODS = frozenset({
    "ListDataFiles", "StartSubmissionUpload", "CreateSubmission", "GetSubmission", "ListSubmissions",
    "GetLeaderboard", "GetSubmissionLimits",
})  # fmt: skip


@dataclass
class SubmissionEntry:
    """A submission as the server keeps it."""

    ref: int
    description: str
    file_name: str
    score: str
    error: str
    data: bytes
    created: float = field(default_factory=time.time)


@dataclass
class Upload:
    """A file that was announced; its data are None until they come."""

    file_name: str
    data: bytes | None = None


class ApiError(Exception):
    """An answer with an error status and Kaggle's JSON."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.0000000Z")


def _best_first(entries: list[SubmissionEntry]) -> list[SubmissionEntry]:
    return sorted((entry for entry in entries if entry.score), key=lambda entry: float(entry.score), reverse=True)


class KaggleBackend:
    """One competition and one user's submissions; safe to call from many threads."""

    def __init__(
        self, competition: Competition, *, daily_limit: int, scoring_seconds: float, rules_accepted: bool,
        memory: Path | None = None,
    ) -> None:
        self.competition, self.daily_limit, self.scoring_seconds = competition, daily_limit, scoring_seconds
        self.rules_accepted = rules_accepted
        self.memory = memory
        self.submissions = self._remembered()
        self.uploads: dict[str, Upload] = {}
        self.url = ""
        self.lock = threading.Lock()

    def remember(self) -> None:
        """Write the submissions down, so that a server started again knows them, as Kaggle would."""
        if self.memory is None:
            return
        rows = [{"ref": one.ref, "description": one.description, "file_name": one.file_name, "created": one.created,
                 "data": base64.b64encode(one.data).decode()} for one in self.submissions]
        partial = self.memory.with_suffix(".partial")
        partial.write_text(json.dumps(rows))
        partial.replace(self.memory)

    def _remembered(self) -> list[SubmissionEntry]:
        """The submissions of earlier servers, graded anew: the truth may have come since."""
        if self.memory is None or not self.memory.exists():
            return []
        found = []
        for row in json.loads(self.memory.read_text()):
            data = base64.b64decode(row["data"])
            score, error = grade(self.competition, data)
            found.append(SubmissionEntry(row["ref"], row["description"], row["file_name"], score, error, data, row["created"]))
        return found

    def require_competition(self, request: Json) -> None:
        """Refuse another competition than ours."""
        if request.get("competitionName") != self.competition.slug:
            raise ApiError(404, "Competition not found")

    def require_rules(self) -> None:
        """Refuse who has not accepted the rules, in Kaggle's words."""
        if not self.rules_accepted:
            raise ApiError(403, "You must accept this competition's rules before you'll be able to download files.")

    def answer(self, method: str, request: Json) -> Json:
        """The JSON answer to one call of the API; Refused where Kaggle would refuse."""
        if method not in METHODS:
            raise ApiError(404, f"{method} is not served here")
        if method != "GetSubmission":
            self.require_competition(request)
        call = getattr(self, "_" + re.sub(r"(?<!^)(?=[A-Z])", "_", method).lower())
        with self.lock:
            result: Json = call(request)
        return result

    def receive(self, token: str, data: bytes) -> bool:
        """Keep the data of an announced upload; False where it was not announced."""
        with self.lock:
            if token in self.uploads:
                self.uploads[token].data = data
            return token in self.uploads

    def _list_data_files(self, _: Json) -> Json:
        self.require_rules()
        archive = self.competition.archive
        # The date stands for the content, so that an unchanged folder is an unchanged competition.
        date = _time(1_500_000_000 + int(digest(archive)[:7], 16))
        files = [
            {"ref": name, "name": name, "totalBytes": num_bytes, "creationDate": date}
            for name, num_bytes in member_sizes(archive).items()
        ]
        return {"files": files, "nextPageToken": ""}

    def _start_submission_upload(self, request: Json) -> Json:
        self.require_rules()
        token = f"upload-{len(self.uploads)}"
        self.uploads[token] = Upload(str(request.get("fileName", "")))
        return {"token": token, "createUrl": f"{self.url}/upload/{token}"}

    def _create_submission(self, request: Json) -> Json:
        self.require_rules()
        if self._num_today() >= self.daily_limit:
            raise ApiError(400, "You have reached your daily submission limit.")
        upload = self.uploads.get(str(request.get("blobFileTokens", "")))
        if upload is None or upload.data is None:
            raise ApiError(400, "The upload is missing")
        score, error = grade(self.competition, upload.data)
        description = str(request.get("submissionDescription") or "")
        ref = len(self.submissions) + 1001
        self.submissions.append(SubmissionEntry(ref, description, upload.file_name, score, error, upload.data))
        self.remember()
        return {"message": f"Successfully submitted to {self.competition.slug}", "ref": ref}

    def _num_today(self) -> int:
        today = _time(time.time())[:10]
        return sum(_time(entry.created)[:10] == today for entry in self.submissions)

    def _pending(self, entry: SubmissionEntry) -> bool:
        return time.time() - entry.created < self.scoring_seconds

    def _as_json(self, entry: SubmissionEntry) -> Json:
        pending = self._pending(entry)
        return {
            "ref": entry.ref,
            "totalBytes": len(entry.data),
            "date": _time(entry.created),
            "description": entry.description,
            "errorDescription": "" if pending else entry.error,
            "fileName": entry.file_name,
            "status": "PENDING" if pending else "ERROR" if entry.error else "COMPLETE",
            "publicScore": "" if pending else entry.score,
            "privateScore": "",
        }

    def _get_submission(self, request: Json) -> Json:
        for entry in self.submissions:
            if entry.ref == request.get("ref"):
                return self._as_json(entry)
        raise ApiError(404, "Submission not found")

    def _list_submissions(self, request: Json) -> Json:
        size = int(request.get("pageSize") or 20)
        start = int(request.get("pageToken") or (max(int(request.get("page") or 1), 1) - 1) * size)
        newest_first = self.submissions[::-1]
        page = [self._as_json(entry) for entry in newest_first[start : start + size]]
        return {"submissions": page, "nextPageToken": str(start + size) if start + size < len(newest_first) else ""}

    def _get_leaderboard(self, _: Json) -> Json:
        rows = [
            {"teamId": 1, "teamName": "demo", "submissionDate": _time(entry.created), "score": entry.score}
            for entry in _best_first([entry for entry in self.submissions if not self._pending(entry)])[:1]
        ]
        return {"submissions": rows, "nextPageToken": ""}

    def _get_submission_limits(self, _: Json) -> Json:
        used = self._num_today()
        allowed = max(0, self.daily_limit - used)
        return {
            "numToday": used,
            "numTotal": len(self.submissions),
            "numAllowedNow": allowed,
            "limitedByTotal": False,
        }
