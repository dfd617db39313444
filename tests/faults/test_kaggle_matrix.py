"""The fault matrix: failures of Kaggle, what the user sees, and the numbers of attempts and counted submissions.

Kaggle's real client talks to the demo server, and the table is printed. A submission is counted at most once, whatever
fails.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from gate_candidates import build_artifact
from submissions import MemoryClaim, layout_json, submit_file

from carclf.artifacts import Dataset, Evaluation, Prediction, Provenance, StageContext
from carclf.config import load_config
from carclf.demo.competition import Competition, ServedDataset
from carclf.demo.server import DemoServer, Fault
from carclf.errors import CarclfError, ConfigError, DataError, ServiceError, StageWaiting
from carclf.services.kaggle.client import KaggleClient
from carclf.services.kaggle.datasets import DatasetClient
from carclf.services.storage import open_store
from carclf.stages.score import score
from carclf.stages.submit import send_submission

SLUG = "demo-cars"
FINGERPRINT = "abcdef"
ALWAYS = 99
RULES_URL = f"https://www.kaggle.com/competitions/{SLUG}/rules"
Outcome = tuple[type[Exception] | None, str]


@dataclass(frozen=True)
class Row:
    """One fault: the calls that it breaks or what it changes in the server, and the expected outcome.

    ``outcome`` is the error, if any, and a part of its message or of the result. ``num_attempts`` counts the calls of
    ``method``, ``num_counted`` the submissions that Kaggle has afterwards.
    """

    name: str
    method: str
    outcome: Outcome = (None, "")
    faults: list[Fault] = field(default_factory=list)
    num_attempts: int = 1
    num_counted: int = 0
    server: dict[str, Any] = field(default_factory=dict)
    key: str = "demo-key"
    slug: str = SLUG


SUCCESS: Outcome = (None, "complete archive")
TRANSIENT: Outcome = (ServiceError, "")
DAMAGED: Outcome = (DataError, "")


def download_row(name: str, fault: Fault, outcome: Outcome = SUCCESS, num_attempts: int = 2) -> Row:
    return Row(name, fault.method, outcome, [fault], num_attempts)


LIST = "DownloadDataFiles"
FILE = "Download"
DOWNLOADS = [
    Row("401: a wrong key", LIST, (ConfigError, "KAGGLE_KEY"), key="stale"),
    Row("403: rules not accepted", LIST, (ConfigError, RULES_URL), server={"rules_accepted": False}),
    Row("404: no such competition", LIST, (ConfigError, "demo-lorries"), slug="demo-lorries"),
    download_row("400: a bad request", Fault(LIST, "status", status=400), (ConfigError, ""), 1),
    download_row("429 with Retry-After: 1", Fault(LIST, "status", status=429, retry_after=1)),
    download_row(
        "429 with Retry-After: 4000", Fault(LIST, "status", status=429, retry_after=4000), (ServiceError, "4000 s"), 1
    ),
    download_row("500 once", Fault(LIST, "status")),
    download_row("502 always", Fault(LIST, "status", status=502, times=ALWAYS), TRANSIENT, 4),
    download_row("no response", Fault(LIST, "drop")),
    download_row("HTML instead of JSON", Fault(LIST, "html")),
    download_row("503 from the storage", Fault(FILE, "status", status=503)),
    download_row("HTML instead of the archive", Fault(FILE, "html")),
    download_row("an expired link", Fault(FILE, "expired")),
    download_row("links that always expire", Fault(FILE, "expired", times=ALWAYS), TRANSIENT, 4),
    download_row("the body dropped three times", Fault(FILE, "drop", times=3), num_attempts=4),
    download_row("the body dropped always", Fault(FILE, "drop", times=ALWAYS), TRANSIENT, 4),
    download_row("a stalled body", Fault(FILE, "stall")),
    download_row("a stalled body always", Fault(FILE, "stall", times=ALWAYS), TRANSIENT, 4),
    download_row("a truncated archive once", Fault(FILE, "truncate")),
    download_row("a truncated archive always", Fault(FILE, "truncate", times=ALWAYS), DAMAGED),
    download_row("a corrupted archive of the same size once", Fault(FILE, "corrupt")),
    download_row("a corrupted archive of the same size always", Fault(FILE, "corrupt", times=ALWAYS), DAMAGED),
]


DATASET = "ford/car-models"
VERSION, STATUS, SUMMARY = "GetDataset", "GetDatasetStatus", "GetDatasetFilesSummary"
FILES, DATA = "ListDatasetFiles", "DownloadDataset"


def dataset_row(name: str, fault: Fault, outcome: Outcome = SUCCESS, num_attempts: int = 2) -> Row:
    return Row(f"dataset: {name}", fault.method, outcome, [fault], num_attempts, slug=DATASET)


DATASETS = [
    Row("dataset: 401: a wrong key", VERSION, (ConfigError, "KAGGLE_KEY"), key="stale", slug=DATASET),
    Row("dataset: 404: no such dataset", VERSION, (ConfigError, "data.source"), slug="ford/lorries"),
    dataset_row("403: a private one", Fault(VERSION, "status", 403), (ConfigError, DATASET), 1),
    dataset_row("429 to its version", Fault(VERSION, "status", 429, retry_after=1), num_attempts=3),
    dataset_row("no version in the response", Fault(VERSION, "empty"), num_attempts=3),
    dataset_row("no version in any response", Fault(VERSION, "empty", times=ALWAYS), TRANSIENT, 4),
    dataset_row("500 to its status", Fault(STATUS, "status")),
    dataset_row("HTML instead of its status", Fault(STATUS, "html")),
    dataset_row("a stalled status", Fault(STATUS, "stall")),
    # The status of an empty response is the enumeration's first: Kaggle is still processing the dataset.
    dataset_row("no status in the response", Fault(STATUS, "empty"), (ServiceError, "NOT_YET_PERSISTED"), 1),
    dataset_row("no summary (404)", Fault(SUMMARY, "status", 404), num_attempts=1),
    dataset_row("503 to the summary always", Fault(SUMMARY, "status", 503, times=ALWAYS), TRANSIENT, 4),
    dataset_row("the list of files dropped", Fault(FILES, "drop")),
    dataset_row("502 to the list of files always", Fault(FILES, "status", 502, times=ALWAYS), TRANSIENT, 4),
    dataset_row("500 to the download", Fault(DATA, "status")),
    dataset_row("HTML instead of a link", Fault(DATA, "html")),
    dataset_row("an expired link", Fault(FILE, "expired")),
    dataset_row("the body dropped three times", Fault(FILE, "drop", times=3), num_attempts=4),
    dataset_row("a stalled body", Fault(FILE, "stall")),
    dataset_row("a truncated archive always", Fault(FILE, "truncate", times=ALWAYS), DAMAGED),
    dataset_row("a corrupted archive once", Fault(FILE, "corrupt")),
]
DETAILS = "GetCompetition"


def submission_row(
    name: str, method: str, *faults: Fault, num_attempts: int = 1, outcome: Outcome = (None, "submission 1001"),
    num_counted: int | None = None, **server: Any
) -> Row:
    num_counted = int(not outcome[0]) if num_counted is None else num_counted
    return Row(name, method, outcome, list(faults), num_attempts, num_counted, server)


LIMIT: Outcome = (StageWaiting, "00:00 UTC")
UNKNOWN: Outcome = (StageWaiting, FINGERPRINT)
START = "StartSubmissionUpload"
CREATE = "CreateSubmission"
LAGGING = {"list_lag_seconds": 3600}
ALLOWED_ONCE = Fault("GetSubmissionLimits", "empty")
SUBMISSIONS = [
    submission_row("no upload granted (503)", START, Fault(START, "status", 503), num_attempts=2),
    submission_row("an upload rejected (403)", "Upload", Fault("Upload", "status", 403), num_attempts=2),
    submission_row(
        "an upload rejected (503) always",
        "Upload",
        Fault("Upload", "status", 503, times=ALWAYS),
        num_attempts=4,
        outcome=(ServiceError, "503"),
    ),
    submission_row("an upload dropped", "Upload", Fault("Upload", "drop"), num_attempts=2),
    submission_row("an upload stalled", "Upload", Fault("Upload", "stall"), num_attempts=2),
    submission_row("response lost, counted", CREATE, Fault(CREATE, "drop_after")),
    *(
        submission_row(f"{status} to a counted submission", CREATE, Fault(CREATE, "status_after", status))
        for status in (400, 408, 429, 500, 503)
    ),
    submission_row(
        "response lost, counted, not listed",
        CREATE,
        Fault(CREATE, "drop_after"),
        outcome=UNKNOWN,
        num_counted=1,
        **LAGGING,
    ),
    *(
        submission_row(
            f"{status} to a counted submission, not listed",
            CREATE,
            Fault(CREATE, "status_after", status, retry_after=0),
            outcome=UNKNOWN,
            num_counted=1,
            **LAGGING,
        )
        for status in (408, 429, 500, 503)
    ),
    submission_row(
        "400 to a counted submission, not listed",
        CREATE,
        Fault(CREATE, "status_after", 400),
        outcome=(ConfigError, "400"),
        num_counted=1,
        **LAGGING,
    ),
    submission_row("response lost, not counted", CREATE, Fault(CREATE, "drop"), outcome=UNKNOWN),
    submission_row("no response to the submission", CREATE, Fault(CREATE, "stall"), outcome=UNKNOWN),
    submission_row("500 to the submission", CREATE, Fault(CREATE, "status", 500), outcome=UNKNOWN),
    submission_row("429 to the submission", CREATE, Fault(CREATE, "status", 429, retry_after=0), outcome=UNKNOWN),
    submission_row("HTML in response to the submission", CREATE, Fault(CREATE, "html"), outcome=UNKNOWN),
    submission_row("no number in the response", CREATE, Fault(CREATE, "empty"), outcome=UNKNOWN),
    submission_row("401 to the submission", CREATE, Fault(CREATE, "status", 401), outcome=(ConfigError, "KAGGLE_KEY")),
    submission_row("403 to the submission", CREATE, Fault(CREATE, "status", 403), outcome=(ConfigError, RULES_URL)),
    submission_row("400 to the submission", CREATE, Fault(CREATE, "status", 400), outcome=(ConfigError, "400")),
    submission_row("500 to the list of submissions", CREATE, Fault("ListSubmissions", "status", 500)),
    submission_row("HTML instead of the list", CREATE, Fault("ListSubmissions", "html")),
    submission_row("no response about the limits", CREATE, Fault("GetSubmissionLimits", "drop")),
    submission_row("no call for the limits", CREATE, Fault("GetSubmissionLimits", "status", 404, times=ALWAYS)),
    submission_row("500 to the details of the competition", DETAILS, Fault(DETAILS, "status"), num_attempts=2),
    submission_row("no call for the details", DETAILS, Fault(DETAILS, "status", 404)),
    submission_row("no details in the response", DETAILS, Fault(DETAILS, "empty")),
    submission_row(
        "no response about the details",
        DETAILS,
        Fault(DETAILS, "drop", times=ALWAYS),
        num_attempts=4,
        outcome=TRANSIENT,
    ),
    submission_row("limit reached, known before", CREATE, num_attempts=0, outcome=LIMIT, daily_limit=1),
    submission_row("limit reached, known by a 400", CREATE, ALLOWED_ONCE, outcome=LIMIT, daily_limit=1),
    submission_row(
        "limit reached, known by a 400 to the upload",
        START,
        ALLOWED_ONCE,
        Fault(START, "status", 400),
        outcome=LIMIT,
        daily_limit=1,
    ),
]
SCORES = [
    Row(
        "slow scoring",
        "ListSubmissions",
        (StageWaiting, "submission 1001 is PENDING"),
        num_attempts=3,
        num_counted=1,
        server={"scoring_seconds": 60},
    ),
    Row("a scoring error", "ListSubmissions", (DataError, "submission 1001"), num_attempts=3, num_counted=1),
]


@dataclass(frozen=True)
class Matrix:
    """The server, the table of outcomes, and the client of a row."""

    server: DemoServer
    lines: list[tuple[str, ...]]
    monkeypatch: pytest.MonkeyPatch

    def connect(self, row: Row) -> KaggleClient:
        self.prepare(row)
        return KaggleClient(row.slug, max_attempts=4, backoff_seconds=0.01, read_timeout_seconds=0.3)

    def connect_to_dataset(self, row: Row) -> DatasetClient:
        self.prepare(row)
        return DatasetClient(row.slug, max_attempts=4, backoff_seconds=0.01, read_timeout_seconds=0.3)

    def prepare(self, row: Row) -> None:
        self.monkeypatch.setenv("KAGGLE_KEY", row.key)
        for name, value in row.server.items():
            setattr(self.server, name, value)
        self.server.faults += [dataclasses.replace(fault) for fault in row.faults]

    def check(self, row: Row, act: Callable[[], str], fingerprint: str = FINGERPRINT) -> None:
        """Act, add the line of the table, and check the row's expectations."""
        error: type[Exception] | None = None
        try:
            text = act()
        except (CarclfError, StageWaiting) as caught:
            error, text = type(caught), str(caught)
        num_counted = sum(fingerprint in entry.description for entry in self.server.submissions)
        num_attempts = self.server.calls[row.method]
        shown = f"{error.__name__}: {text}" if error else text
        self.lines.append((row.name, shown, str(num_attempts), "" if row in DOWNLOADS + DATASETS else str(num_counted)))
        assert (error, num_attempts, num_counted) == (row.outcome[0], row.num_attempts, row.num_counted), text
        assert row.outcome[1] in text


@pytest.fixture(scope="module")
def lines(pytestconfig: pytest.Config) -> Iterator[list[tuple[str, ...]]]:
    """The lines of the table, which is printed at the end."""
    lines: list[tuple[str, ...]] = [("fault", "what the user sees", "attempts", "counted")]
    yield lines
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n\nkaggle {version('kaggle')}, kagglesdk {version('kagglesdk')}")
        for fault, outcome, attempts, counted in lines:
            print(f"{fault:<47}{outcome:<88.86}{attempts:>8}{counted:>9}")


@pytest.fixture
def matrix(
    kaggle_server: DemoServer, lines: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> Matrix:
    return Matrix(kaggle_server, lines, monkeypatch)


@pytest.mark.parametrize("row", DOWNLOADS, ids=lambda row: row.name)
def test_a_fault_of_a_download(
    row: Row, matrix: Matrix, tmp_path: Path, random_bytes_competition: Competition
) -> None:
    folder = tmp_path / "new"

    def download() -> str:
        path = matrix.connect(row).download(folder, timeout_seconds=60)
        assert path.read_bytes() == random_bytes_competition.archive.read_bytes()
        return "complete archive"

    matrix.check(row, download)
    # Neither a part nor a damaged archive is left behind.
    assert list(folder.iterdir()) == ([] if row.outcome[0] else [folder / f"{SLUG}.zip"])


@pytest.mark.parametrize("row", DATASETS, ids=lambda row: row.name)
def test_a_fault_of_a_dataset(
    row: Row, matrix: Matrix, tmp_path: Path, random_bytes_competition: Competition
) -> None:
    folder, archive = tmp_path / "new", random_bytes_competition.archive
    matrix.server.datasets.append(ServedDataset("ford", "car-models", 3, archive))
    folder.mkdir()

    def download() -> str:
        dataset = matrix.connect_to_dataset(row)
        version = dataset.resolve(0)
        extensions = {entry.extension: entry.num_files for entry in dataset.list_extensions(version)}
        assert (version, len(dataset.list_files(version))) == (3, 41)
        assert extensions == ({} if row.method == SUMMARY else {".csv": 1, ".jpg": 40})
        assert dataset.download(version, folder, timeout_seconds=60).read_bytes() == archive.read_bytes()
        return "complete archive"

    matrix.check(row, download)
    assert list(folder.iterdir()) == ([] if row.outcome[0] else [folder / "car-models.zip"])


@pytest.mark.parametrize("row", SUBMISSIONS, ids=lambda row: row.name)
def test_a_fault_of_a_submission(
    row: Row, matrix: Matrix, tmp_path: Path, random_bytes_competition: Competition
) -> None:
    path = tmp_path / "submission.csv"
    path.write_text("Id,Category\n" + "".join(f"{name},0\n" for name in random_bytes_competition.ids))
    if row.server.get("daily_limit"):
        submit_file(matrix.connect(Row("", "")), path, "another")
        matrix.server.calls.clear()
    claim = MemoryClaim()

    def submit() -> str:
        state = submit_file(matrix.connect(row), path, FINGERPRINT, claim)
        entries = [entry for entry in matrix.server.submissions if FINGERPRINT in entry.description]
        assert [(entry.ref, entry.data) for entry in entries] == [(state.ref, path.read_bytes())]
        return f"submission {state.ref}"

    matrix.check(row, submit)
    if row.num_counted:  # a second call must not send it again
        with nullcontext() if row.outcome[0] is None else pytest.raises(StageWaiting):
            assert submit_file(matrix.connect(Row("", "")), path, FINGERPRINT, claim).ref == 1001
        assert len(matrix.server.submissions) == 1


@pytest.mark.parametrize("row", SCORES, ids=lambda row: row.name)
def test_a_fault_of_the_scoring(
    row: Row, matrix: Matrix, tmp_path: Path, random_bytes_competition: Competition
) -> None:
    context = StageContext(open_store(tmp_path / "store"), load_config("demo", {"data.source": SLUG}))
    matrix.connect(row)
    ids = random_bytes_competition.ids[: 1 if row.outcome[0] is DataError else None]
    content = ("Id,Category\n" + "".join(f"{name},0\n" for name in ids)).encode()

    def build(kind: Any, name: str, data: bytes) -> Any:
        provenance = Provenance(1, {"model": "m"}, {})
        return build_artifact(context.store, kind, provenance, {"num_rows": len(ids)}, {name: data})

    prediction = build(Prediction, "submission.csv", content)
    dataset = build(Dataset, "layout.json", layout_json(ids, ["0"]))
    submission, _ = send_submission(prediction, dataset, context)
    interval = {"val_accuracy": 0.9, "val_accuracy_low": 0.8, "val_accuracy_high": 0.95}
    evaluation = build_artifact(context.store, Evaluation, Provenance(1, {"model": "m"}, {}), interval)
    fingerprint = prediction.files["submission.csv"].sha256[:16]
    matrix.check(row, lambda: str(score(submission, evaluation, context)[0].metrics), fingerprint)
