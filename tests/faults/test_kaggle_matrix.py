"""The fault matrix: what goes wrong at Kaggle, what the user sees, how often it was tried, and what counted.

The real client against the demo server; the table is printed. A submission counts once at most, whatever breaks.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from carclf.artifacts import Dataset, Evaluation, Model, Prediction, Provenance, Split, StageContext, build
from carclf.config import load_config
from carclf.demo.competition import Competition
from carclf.demo.server import DemoServer, Fault
from carclf.errors import CarclfError, ConfigError, DataError, ServiceError, StageWaiting
from carclf.services.kaggle.client import KaggleClient
from carclf.services.storage import open_store
from carclf.stages.score import score
from carclf.stages.submit import send_submission

SLUG, MARK = "demo-cars", "abcdef"
ALWAYS = 99
RULES = f"https://www.kaggle.com/competitions/{SLUG}/rules"


@dataclass(frozen=True)
class Row:
    """One fault: the calls that it breaks or what it changes of the server, and how that must end.

    ``sees`` is the error and a part of its words, or of what comes back; ``attempts`` counts ``method``'s calls.
    """

    name: str
    method: str
    faults: list[Fault] = field(default_factory=list)
    sees: tuple[type[Exception] | None, str] = (None, "")
    attempts: int = 1
    counted: int = 0
    server: dict[str, Any] = field(default_factory=dict)
    key: str = "demo-key"
    slug: str = SLUG


def broken(name: str, method: str, kind: Any, *, sees: Any = None, attempts: int = 2, **fault: Any) -> Row:
    """A download whose one method breaks; without ``sees`` it passes and the whole archive comes."""
    return Row(name, method, [Fault(method, kind, **fault)], sees or (None, "the archive, whole"), attempts)


LASTING = (ServiceError, "try again later")
TWICE = (DataError, "in two complete downloads")
DOWNLOADS = [
    Row("401: a wrong key", "DownloadDataFiles", key="stale",
        sees=(ConfigError, "KAGGLE_USERNAME and KAGGLE_KEY is invalid or expired")),
    Row("403: the rules are not accepted", "DownloadDataFiles", server={"rules_accepted": False},
        sees=(ConfigError, f"accept its rules at {RULES}")),
    Row("404: no such competition", "DownloadDataFiles", slug="demo-lorries",
        sees=(ConfigError, "demo-lorries")),
    broken("400: a refused request", "DownloadDataFiles", "status", status=400, attempts=1,
           sees=(ConfigError, "A retry cannot help")),
    broken("429 with Retry-After: 1", "DownloadDataFiles", "status", status=429, retry_after=1),
    broken("429 with Retry-After: 4000", "DownloadDataFiles", "status", status=429, retry_after=4000, attempts=1,
           sees=(ServiceError, "asks to wait 4000 s")),
    broken("500 once", "DownloadDataFiles", "status"),
    broken("502 for good", "DownloadDataFiles", "status", status=502, times=ALWAYS, attempts=4, sees=LASTING),
    broken("no answer", "DownloadDataFiles", "drop"),
    broken("HTML instead of JSON", "DownloadDataFiles", "html"),
    broken("503 from the storage", "Download", "status", status=503),
    broken("HTML instead of the archive", "Download", "html"),
    broken("an expired link", "Download", "expired"),
    broken("links that expire for good", "Download", "expired", times=ALWAYS, attempts=4, sees=LASTING),
    broken("the body dropped, thrice", "Download", "drop", times=3, attempts=4),
    broken("the body dropped for good", "Download", "drop", times=ALWAYS, attempts=4, sees=LASTING),
    broken("a stalled body", "Download", "stall"),
    broken("a stalled body for good", "Download", "stall", times=ALWAYS, attempts=4, sees=LASTING),
    broken("a truncated archive, once", "Download", "truncate"),
    broken("a truncated archive for good", "Download", "truncate", times=ALWAYS, sees=TWICE),
    broken("a corrupted archive of the same size, once", "Download", "corrupt"),
    broken("a corrupted archive of the same size for good", "Download", "corrupt", times=ALWAYS, sees=TWICE),
]


def sent(name: str, method: str, *faults: Fault, attempts: int = 2, sees: Any = None, **more: Any) -> Row:
    """A submission on whose way something breaks; without ``sees`` it counts once."""
    return Row(name, method, list(faults), sees or (None, "submission 1001"), attempts, 0 if sees else 1, more)


LIMIT = "The limit resets at 00:00 UTC"
CREATE = "CreateSubmission"
SUBMISSIONS = [
    sent("no upload granted (503)", "StartSubmissionUpload", Fault("StartSubmissionUpload", "status", 503)),
    sent("an upload refused (403)", "Upload", Fault("Upload", "status", 403)),
    sent("an upload refused (503) for good", "Upload", Fault("Upload", "status", 503, times=ALWAYS), attempts=4,
         sees=(ServiceError, "the upload failed with status 503")),
    sent("an upload dropped", "Upload", Fault("Upload", "drop")),
    sent("an upload stalled", "Upload", Fault("Upload", "stall")),
    sent("the answer lost, counted", CREATE, Fault(CREATE, "drop_after"), attempts=1),
    sent("the answer lost, counted, shown late", CREATE, Fault(CREATE, "drop_after"),
         Fault("ListSubmissions", "empty", times=3), attempts=1),
    sent("the answer lost, not counted", CREATE, Fault(CREATE, "drop")),
    sent("the answer lost, not counted, for good", CREATE, Fault(CREATE, "drop", times=ALWAYS), attempts=4,
         sees=(ServiceError, "Could not submit")),
    sent("no answer to the submission", CREATE, Fault(CREATE, "stall")),
    sent("500 to the submission", CREATE, Fault(CREATE, "status", 500)),
    sent("500 to the submission for good", CREATE, Fault(CREATE, "status", 500, times=ALWAYS), attempts=4,
         sees=(ServiceError, "Could not submit")),
    sent("429 to the submission", CREATE, Fault(CREATE, "status", 429, retry_after=0)),
    sent("HTML in answer to the submission", CREATE, Fault(CREATE, "html")),
    sent("403 to the submission", CREATE, Fault(CREATE, "status", 403), attempts=1,
         sees=(ConfigError, f"accept its rules at {RULES}")),
    sent("500 to the list of submissions", CREATE, Fault("ListSubmissions", "status", 500), attempts=1),
    sent("HTML instead of the list", CREATE, Fault("ListSubmissions", "html"), attempts=1),
    sent("no answer about the limits", CREATE, Fault("GetSubmissionLimits", "drop"), attempts=1),
    sent("the limit reached, told before", CREATE, attempts=0, sees=(StageWaiting, LIMIT), daily_limit=1),
    sent("the limit reached, told by a refusal", CREATE, attempts=1, sees=(StageWaiting, LIMIT), daily_limit=0),
]
SCORES = [
    Row("slow scoring", "ListSubmissions", attempts=3, counted=1, sees=(StageWaiting, "submission 1001 is PENDING"),
        server={"scoring_seconds": 60}),
    Row("a scoring error", "ListSubmissions", attempts=3, counted=1,
        sees=(DataError, "Kaggle could not score submission 1001: The file has 1 rows")),
]


@pytest.fixture(scope="module")
def table(pytestconfig: pytest.Config) -> Iterator[list[tuple[str, ...]]]:
    """Takes a line of each row, and is printed at the end."""
    lines: list[tuple[str, ...]] = [("fault", "what the user sees", "attempts", "counted")]
    yield lines
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n\nkaggle {version('kaggle')}, kagglesdk {version('kagglesdk')}")
        for fault, sees, attempts, counted in lines:
            print(f"{fault:<47}{sees:<88.86}{attempts:>8}{counted:>9}")


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch, kaggle: DemoServer) -> Callable[[Row], KaggleClient]:
    def connect(row: Row) -> KaggleClient:
        monkeypatch.setenv("KAGGLE_KEY", row.key)
        for name, value in row.server.items():
            setattr(kaggle, name, value)
        kaggle.faults += [dataclasses.replace(fault) for fault in row.faults]
        return KaggleClient(
            row.slug, max_attempts=4, backoff_seconds=0.01, read_timeout_seconds=0.3, recheck_seconds=0.01)

    return connect


def check(row: Row, kaggle: DemoServer, table: list[tuple[str, ...]], act: Callable[[], str]) -> None:
    """Do it; note the table's line; assert all of the row."""
    error: type[Exception] | None = None
    try:
        text = act()
    except (CarclfError, StageWaiting) as caught:
        error, text = type(caught), str(caught)
    counted = sum(MARK in entry.description for entry in kaggle.submissions)
    attempts = kaggle.calls[row.method]
    start = max(0, text.find(row.sees[1]))
    shown = f"{error.__name__}: …{text[start:]}" if error else text
    table.append((row.name, shown, str(attempts), str(counted) if row not in DOWNLOADS else "–"))
    assert (error, attempts, counted) == (row.sees[0], row.attempts, row.counted), text
    assert re.search(re.escape(row.sees[1]), text), text


@pytest.mark.parametrize("row", DOWNLOADS, ids=lambda row: row.name)
def test_a_fault_of_a_download(
    row: Row, kaggle: DemoServer, connected: Any, table: Any, tmp_path: Path, random_bytes_competition: Competition
) -> None:
    folder = tmp_path / "new"

    def act() -> str:
        path = connected(row).download(folder, timeout_seconds=60)
        assert path.read_bytes() == random_bytes_competition.archive.read_bytes()
        return "the archive, whole"

    check(row, kaggle, table, act)
    # Neither a part nor a broken archive is left behind.
    assert list(folder.iterdir()) == ([] if row.sees[0] else [folder / f"{SLUG}.zip"])


@pytest.mark.parametrize("row", SUBMISSIONS, ids=lambda row: row.name)
def test_a_fault_of_a_submission(
    row: Row, kaggle: DemoServer, connected: Any, table: Any, tmp_path: Path, random_bytes_competition: Competition
) -> None:
    path = tmp_path / "submission.csv"
    path.write_text("Id,Category\n" + "".join(f"{name},0\n" for name in random_bytes_competition.ids))
    if row.server.get("daily_limit"):
        connected(Row("", "")).submit(path, description="another", fingerprint="another")
        kaggle.calls.clear()

    def act() -> str:
        found = connected(row).submit(path, description="a model", fingerprint=MARK)
        mine = [entry for entry in kaggle.submissions if MARK in entry.description]
        assert [(entry.ref, entry.data) for entry in mine] == [(found.ref, path.read_bytes())]
        return f"submission {found.ref}"

    check(row, kaggle, table, act)
    if not row.sees[0]:
        # And once it is there it is never sent again.
        assert connected(Row("", "")).submit(path, description="a model", fingerprint=MARK).ref == 1001
        assert len(kaggle.submissions) == 1


@pytest.mark.parametrize("row", SCORES, ids=lambda row: row.name)
def test_a_fault_of_the_scoring(
    row: Row, kaggle: DemoServer, connected: Any, table: Any, tmp_path: Path, random_bytes_competition: Competition,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, config = open_store(tmp_path / "store"), load_config("demo", {"competition": SLUG})
    connected(row)

    ids = random_bytes_competition.ids[: 1 if row.sees[0] is DataError else None]

    def leave(name: str) -> Callable[[Path], dict[str, Any]]:
        def make(folder: Path) -> dict[str, Any]:
            (folder / name).write_text("Id,Category\n" + "".join(f"{id_},0\n" for id_ in ids))
            return {"num_rows": len(ids), "class_names": "0"}

        return make

    def made(kind: Any, name: str) -> Any:
        return build(kind, leave(name), Provenance(1, {}, {}), store)[0]

    prediction = made(Prediction, "submission.csv")
    monkeypatch.setattr(f"{__name__}.MARK", prediction.files["submission.csv"].sha256[:16])
    given = made(Dataset, "sample-submission.csv"), made(Split, "split.csv"), made(Model, "model.keras")
    submission, _ = send_submission(prediction, *given, config, store)
    evaluation = build(Evaluation, lambda _: {"val_accuracy": 0.9, "val_accuracy_low": 0.8, "val_accuracy_high": 0.95}, Provenance(1, {"model": "m"}, {}), store)[0]
    check(row, kaggle, table, lambda: str(score(submission, evaluation, StageContext(store, config))[0].metrics))
