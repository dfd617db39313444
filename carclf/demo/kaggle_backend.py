"""Kaggle's side of the protocol: competitions with data files, uploads and submissions; datasets; models.

The wire format is that of kaggle 2.2.4 and kagglesdk. It has not been compared with the live service.
"""

import base64
import importlib
import json
import re
import secrets
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any

from carclf.demo.competition import Competition, ServedDataset
from carclf.demo.grading import grade
from carclf.demo.kaggle_models import MODEL_METHODS, ModelBackend
from carclf.demo.responses import ApiError, Upload, format_time, page
from carclf.demo.served_files import digest, member_sizes
from carclf.metrics import METRICS

Json = dict[str, Any]
FIRST_REF = 1001
MAX_UPLOADS = 100  # are kept in memory
CREATION_EPOCH = 1_500_000_000  # the first creation date of an archive, in seconds
DAILY_LIMIT_MESSAGE = "Your team has used its daily Submission allowance today, please try again tomorrow UTC."
NOTEBOOKS_ONLY_MESSAGE = "This competition only accepts Submissions from Notebooks."
DISABLED_MESSAGE = "This competition no longer accepts Submissions."
COMPETITION_METHODS = frozenset({
    "GetCompetition", "ListDataFiles", "StartSubmissionUpload", "CreateSubmission", "GetSubmission", "ListSubmissions",
    "GetLeaderboard", "GetSubmissionLimits",
})  # fmt: skip
DATASET_METHODS = frozenset({"GetDataset", "GetDatasetStatus", "ListDatasetFiles", "GetDatasetFilesSummary"})
BLOB_METHODS = frozenset({"StartBlobUpload"})
METHODS = COMPETITION_METHODS | DATASET_METHODS | MODEL_METHODS | BLOB_METHODS
USERNAME = "demo"


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
    competition: str = ""  # the slug; empty for the server's first competition

    @property
    def date(self) -> str:
        """The time of the submission in Kaggle's format."""
        return format_time(self.created)


class KaggleBackend:
    """Competitions, datasets, and one user's submissions; thread-safe.

    ``competition`` is the first one; ``others`` are further competitions and versions of datasets.
    """

    def __init__(
        self, competition: Competition, *others: Competition | ServedDataset, daily_limit: int,
        scoring_seconds: float, submissions_path: Path | None = None,
    ) -> None:
        importlib.import_module("sklearn.metrics")  # takes a second, which the first submission would wait for
        self.competition = competition
        self.other_competitions = [item for item in others if isinstance(item, Competition)]
        self.datasets = [item for item in others if isinstance(item, ServedDataset)]
        self.daily_limit = daily_limit
        self.scoring_seconds = scoring_seconds
        self.list_lag_seconds = 0.0  # of new submissions
        self.rules_accepted = True
        self.submissions_path = submissions_path
        self.submissions = self._load_submissions()
        self.uploads: dict[str, Upload] = {}
        self.models = ModelBackend(USERNAME, self.uploads)
        self.url = ""
        self.lock = threading.Lock()

    def save_submissions(self) -> None:
        """Write the submissions to the file that the next server reads."""
        if self.submissions_path is None:
            return
        rows = [{"ref": entry.ref, "description": entry.description, "file_name": entry.file_name,
                 "created": entry.created, "competition": entry.competition,
                 "data": base64.b64encode(entry.data).decode()} for entry in self.submissions]
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
            competition = self._find_competition(row.get("competition", ""))
            score, error = grade(competition, row["data"]) if competition else ("", "The competition is not served")
            entries.append(SubmissionEntry(**row, score=score, error=error))
        return entries

    def require_competition(self, request: Json) -> Competition:
        """Return the request's competition; raise ApiError (404) if it is not served."""
        if not (competition := self._find_competition(str(request.get("competitionName") or "?"))):
            raise ApiError(HTTPStatus.NOT_FOUND, "Competition not found")
        return competition

    def require_dataset(self, request: Json) -> ServedDataset:
        """Return the request's version of a dataset, by default the newest; raise ApiError (404) if it is missing."""
        name, version = (request.get("ownerSlug"), request.get("datasetSlug")), request.get("datasetVersionNumber")
        versions = [item for item in self.datasets if (item.owner, item.slug) == name]
        chosen = [item for item in versions if version in (None, 0, item.version)]
        if not chosen:
            raise ApiError(HTTPStatus.NOT_FOUND, "Dataset not found")
        return max(chosen, key=lambda item: item.version)

    def find_archive(self, path: str) -> tuple[Path, str]:
        """Return the archive and the member ("" for all of it) that a download's path names; raise ApiError (404)."""
        for dataset in self.datasets:
            if path == f"datasets/{dataset.owner}/{dataset.slug}/{dataset.version}.zip":
                return dataset.archive, ""
        slug, _, member = path.partition("/")
        if competition := self._find_competition((slug if member else slug.removesuffix(".zip")) or "?"):
            return competition.archive, member
        raise ApiError(HTTPStatus.NOT_FOUND, f"The file {path!r} does not exist")

    def _find_competition(self, slug: str) -> Competition | None:
        """Return a competition, or None; the empty slug is the first one's."""
        competitions = (self.competition, *self.other_competitions)
        return next((item for item in competitions if slug in (item.slug, "")), None)

    def require_rules_accepted(self) -> None:
        """Raise ApiError (403) with Kaggle's message unless the user has accepted the rules."""
        if not self.rules_accepted:
            raise ApiError(HTTPStatus.FORBIDDEN,
                           "You must accept this competition's rules before you'll be able to download files.")

    def handle_call(self, method: str, request: Json) -> Json:
        """Return the JSON response to an API call; raise ApiError where Kaggle responds with an error."""
        if method not in METHODS:
            raise ApiError(HTTPStatus.NOT_FOUND, f"{method} is not served here")
        if method in MODEL_METHODS:
            with self.lock:
                return self.models.handle_call(method, request)
        subject: Competition | ServedDataset | None = None  # some calls need none
        if method in DATASET_METHODS:
            subject = self.require_dataset(request)
        elif method not in BLOB_METHODS | {"GetSubmission"}:
            subject = self.require_competition(request)
        call = getattr(self, "_" + re.sub(r"(?<!^)(?=[A-Z])", "_", method).lower())
        with self.lock:
            result: Json = call(subject, request)
        return result

    def receive_upload(self, token: str, data: bytes) -> bool:
        """Keep the data of an announced upload; return False if it was not announced."""
        with self.lock:
            if token in self.uploads:
                self.uploads[token].data = data
            return token in self.uploads

    def _get_competition(self, competition: Competition, _: Json) -> Json:
        return {"ref": competition.slug, "title": competition.slug, "evaluationMetric": competition.evaluation_metric,
                "isKernelsSubmissionsOnly": competition.is_notebooks_only, "maxDailySubmissions": self.daily_limit,
                "submissionsDisabled": competition.submissions_disabled, "userHasEntered": self.rules_accepted}

    def _list_data_files(self, competition: Competition, request: Json) -> Json:
        self.require_rules_accepted()
        files, token = page(_list_members(competition.archive), request)
        return {"files": files, "nextPageToken": token}

    def _get_dataset(self, newest: ServedDataset, _: Json) -> Json:
        versions = [item for item in self.datasets if (item.owner, item.slug) == (newest.owner, newest.slug)]
        return {"ref": f"{newest.owner}/{newest.slug}", "title": newest.slug, "ownerRef": newest.owner,
                "currentVersionNumber": newest.version, "totalBytes": newest.archive.stat().st_size,
                "versions": [{"versionNumber": item.version, "status": item.status} for item in versions]}

    def _get_dataset_status(self, newest: ServedDataset, _: Json) -> Json:
        return {"status": newest.status}

    def _list_dataset_files(self, dataset: ServedDataset, request: Json) -> Json:
        files, token = page(_list_members(dataset.archive), request)
        return {"datasetFiles": files, "nextPageToken": token}

    def _get_dataset_files_summary(self, dataset: ServedDataset, _: Json) -> Json:
        sizes: dict[str, list[int]] = {}
        for name, num_bytes in member_sizes(dataset.archive).items():
            sizes.setdefault(PurePosixPath(name).suffix.lower(), []).append(num_bytes)
        types = [{"extension": suffix, "fileCount": len(group), "totalSize": sum(group)}
                 for suffix, group in sizes.items()]
        return {"fileSummaryInfo": {"totalFileCount": sum(map(len, sizes.values())), "fileTypes": types}}

    def _start_submission_upload(self, _: Competition, request: Json) -> Json:
        self.require_rules_accepted()
        return self._start_upload(str(request.get("fileName", "")))

    def _start_blob_upload(self, _: None, request: Json) -> Json:
        return self._start_upload(str(request.get("name", "")))

    def _start_upload(self, file_name: str) -> Json:
        token = secrets.token_hex(16)  # whoever has the URL may upload
        self.uploads[token] = Upload(file_name)
        if len(self.uploads) > MAX_UPLOADS:
            del self.uploads[next(iter(self.uploads))]  # the oldest
        return {"token": token, "createUrl": f"{self.url}/upload/{token}"}

    def _create_submission(self, competition: Competition, request: Json) -> Json:
        self.require_rules_accepted()
        if competition.is_notebooks_only or competition.submissions_disabled:
            message = NOTEBOOKS_ONLY_MESSAGE if competition.is_notebooks_only else DISABLED_MESSAGE
            raise ApiError(HTTPStatus.BAD_REQUEST, message)
        if self._num_today(competition) >= self.daily_limit:
            raise ApiError(HTTPStatus.BAD_REQUEST, DAILY_LIMIT_MESSAGE)
        upload = self.uploads.get(str(request.get("blobFileTokens", "")))
        if upload is None or upload.data is None:
            raise ApiError(HTTPStatus.BAD_REQUEST, "The upload is missing")
        score, error = grade(competition, upload.data)
        description = str(request.get("submissionDescription") or "")
        ref = len(self.submissions) + FIRST_REF
        now = time.time()
        self.submissions.append(SubmissionEntry(ref, description, upload.file_name, score, error, upload.data, now,
                                                now + self.list_lag_seconds, competition.slug))
        self.save_submissions()
        return {"message": f"Successfully submitted to {competition.slug}", "ref": ref}

    def _submissions_to(self, competition: Competition) -> list[SubmissionEntry]:
        return [entry for entry in self.submissions if self._find_competition(entry.competition) is competition]

    def _num_today(self, competition: Competition) -> int:
        today = format_time(time.time())[:10]
        return sum(entry.date[:10] == today for entry in self._submissions_to(competition) if not entry.error)

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

    def _get_submission(self, _: None, request: Json) -> Json:
        for entry in self.submissions:
            if entry.ref == request.get("ref"):
                return self._as_json(entry)
        raise ApiError(HTTPStatus.NOT_FOUND, "Submission not found")

    def _list_submissions(self, competition: Competition, request: Json) -> Json:
        entries = self._submissions_to(competition)
        newest_first = [entry for entry in reversed(entries) if entry.listed_at <= time.time()]
        entries, token = page(newest_first, request)
        return {"submissions": list(map(self._as_json, entries)), "nextPageToken": token}

    def _get_leaderboard(self, competition: Competition, _: Json) -> Json:
        entries = self._submissions_to(competition)
        scored = [entry for entry in entries if entry.score and not self._is_pending(entry)]
        higher_is_better = METRICS[competition.metric].higher_is_better
        best = sorted(scored, key=lambda entry: float(entry.score), reverse=higher_is_better)[:1]
        rows = [{"teamId": 1, "teamName": "demo", "submissionDate": entry.date, "score": entry.score} for entry in best]
        return {"submissions": rows, "nextPageToken": ""}

    def _get_submission_limits(self, competition: Competition, _: Json) -> Json:
        used = self._num_today(competition)
        allowed = max(0, self.daily_limit - used)
        total = sum(not entry.error for entry in self._submissions_to(competition))
        return {"numToday": used, "numTotal": total, "numAllowedNow": allowed, "limitedByTotal": False}


def _list_members(archive: Path) -> list[Json]:
    # Derive the date from the content: the client must see an unchanged archive as unchanged data.
    date = format_time(CREATION_EPOCH + int(digest(archive)[:7], 16))
    return [{"ref": name, "name": name, "totalBytes": num_bytes, "creationDate": date}
            for name, num_bytes in member_sizes(archive).items()]

