"""The real Kaggle client against the loopback server: every fault that is known of it, and what becomes of it."""

import json
import random
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from carclf.demo.competition import Competition, open_competition
from carclf.demo.server import DemoServer, Fault
from carclf.errors import CarclfError, ConfigError, DataError, ServiceError
from carclf.services.kaggle import Kaggle, SubmissionState
from carclf.services.kaggle.archive import Download
from carclf.services.kaggle.retries import FAULTS

SLUG = "demo-cars"


@pytest.fixture(scope="module")
def competition(tmp_path_factory: pytest.TempPathFactory) -> Competition:
    # The service never looks into the pictures: any bytes that do not compress will do.
    folder, rng = tmp_path_factory.mktemp("competition"), random.Random(0)
    names = [f"{number}.jpg" for number in range(40)]
    for name in names:
        path = folder / ("test_upload" if name < "2" else f"train/{name[0]}") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(100_000))
    rows = "".join(f"{name},0\n" for name in names if name < "2")
    for name in ("truth.csv", "sample-submission.csv"):
        (folder / name).write_text(f"Id,Category\n{rows}")
    return open_competition(folder, slug=SLUG, work=folder / "work", truth=folder / "truth.csv")


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("KAGGLE_CONFIG_DIR", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "CARCLF_KAGGLE_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(competition: Competition, monkeypatch: pytest.MonkeyPatch) -> Iterator[DemoServer]:
    with DemoServer(competition, scoring_seconds=0) as running:
        monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", running.url)
        monkeypatch.setenv("KAGGLE_USERNAME", "demo")
        monkeypatch.setenv("KAGGLE_KEY", "demo-key")
        yield running


def connect(slug: str = SLUG) -> Kaggle:
    return Kaggle(slug, tries=4, backoff_seconds=0.01, stall_seconds=0.5)


@pytest.fixture
def submission(tmp_path: Path, competition: Competition) -> Path:
    with zipfile.ZipFile(competition.archive) as archive:
        name = next(name for name in archive.namelist() if name.endswith("submission.csv"))
        (tmp_path / "submission.csv").write_bytes(archive.read(name))
    return tmp_path / "submission.csv"


def test_the_files_are_listed_alike_each_time(server: DemoServer) -> None:
    assert connect().check() == 4
    assert connect().listing() == connect().listing()
    assert [name for name, _, _ in connect().listing()] == ["sample-submission.csv", "test.zip", "train.csv",
                                                            "train.zip"]  # fmt: skip


def test_the_archive_is_downloaded_whole(server: DemoServer, tmp_path: Path) -> None:
    path = connect().download(tmp_path / "new", timeout_seconds=60)
    assert path == tmp_path / "new" / f"{SLUG}.zip"
    assert path.read_bytes() == server.competition.archive.read_bytes()
    assert list(path.parent.iterdir()) == [path]


PASSING = [
    Fault("DownloadDataFiles", "status", 500),
    Fault("DownloadDataFiles", "status", 429, retry_after=0),
    Fault("DownloadDataFiles", "drop"),
    Fault("DownloadDataFiles", "html"),
    Fault("Download", "status", 503),
    Fault("Download", "status", 403),
    Fault("Download", "html"),
    Fault("Download", "drop", times=3),
    Fault("Download", "stall"),
    Fault("Download", "truncate"),
    Fault("Download", "corrupt"),
]


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: f"{fault.method}-{fault.kind}-{fault.status}")
def test_a_passing_fault_leaves_no_trace_in_the_archive(server: DemoServer, tmp_path: Path, fault: Fault) -> None:
    server.faults.append(Fault(fault.method, fault.kind, fault.status, fault.retry_after, fault.times))
    path = connect().download(tmp_path / "new", timeout_seconds=60)
    assert server.faults[0].times == 0
    assert path.read_bytes() == server.competition.archive.read_bytes()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (Fault("Download", "truncate", times=9), DataError, r"broken .* twice alike"),
        (Fault("Download", "corrupt", times=9), DataError, r"broken .* twice alike"),
        (Fault("Download", "drop", times=99), ServiceError, "try again later"),
        (Fault("DownloadDataFiles", "status", 502, times=99), ServiceError, "try again later"),
        (Fault("DownloadDataFiles", "status", 429, retry_after=4000), ServiceError, "asks to wait 4000 s"),
        (Fault("DownloadDataFiles", "status", 400), ConfigError, "A retry cannot help"),
    ],
    ids=lambda value: f"{value.method}-{value.kind}" if isinstance(value, Fault) else None,
)
def test_a_lasting_fault_is_told_and_leaves_no_file(
    server: DemoServer, tmp_path: Path, fault: Fault, error: type[CarclfError], words: str
) -> None:
    server.faults.append(Fault(fault.method, fault.kind, fault.status, fault.retry_after, fault.times))
    with pytest.raises(error, match=words):
        connect().download(tmp_path / "new", timeout_seconds=60)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_broken_download_goes_on_where_it_stopped(server: DemoServer, tmp_path: Path) -> None:
    server.faults.append(Fault("Download", "drop"))
    asked: list[dict[str, str]] = []
    kaggle = connect()

    def ask(headers: dict[str, str]) -> requests.Response:
        asked.append(headers)
        return kaggle._ask_archive(headers)

    download = Download(tmp_path / "part", ask, deadline=time.monotonic() + 60)
    with pytest.raises(FAULTS):
        download.fetch()
    half = download.path.stat().st_size
    download.fetch()
    assert [headers.get("Range") for headers in asked] == [None, f"bytes={half}-"]
    assert 0 < half < download.path.stat().st_size
    assert download.path.read_bytes() == server.competition.archive.read_bytes()


def test_a_token_is_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "secret" * 100)  # too long for a path, as which the SDK tries it
    with pytest.raises(ConfigError, match="credentials cannot be read") as caught:
        connect()
    assert "secret" not in str(caught.value)


def test_a_server_that_stays_silent_does_not_hold_the_task(server: DemoServer, tmp_path: Path) -> None:
    server.faults.append(Fault("Download", "stall", times=99))
    started = time.monotonic()
    with pytest.raises(ServiceError, match="time"):
        connect().download(tmp_path, timeout_seconds=1)
    assert time.monotonic() - started < 5


def test_retry_after_is_honoured(server: DemoServer) -> None:
    server.faults.append(Fault("ListDataFiles", "status", 429, retry_after=1))
    started = time.monotonic()
    assert len(connect().listing()) == 4
    assert time.monotonic() - started >= 1


def test_a_folder_that_cannot_be_written_is_named(server: DemoServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        connect().download(tmp_path / "file" / "new", timeout_seconds=60)


def test_rules_that_are_not_accepted_are_told_with_their_address(server: DemoServer, tmp_path: Path) -> None:
    server.rules_accepted = False
    address = f"https://www.kaggle.com/competitions/{SLUG}/rules"
    with pytest.raises(ConfigError, match=address):
        connect().download(tmp_path, timeout_seconds=60)
    with pytest.raises(ConfigError, match=address):
        connect().check()


def test_an_unknown_competition_is_told_by_its_slug(server: DemoServer) -> None:
    with pytest.raises(ConfigError, match=r"Check the slug.*'demo-lorries'"):
        connect("demo-lorries").check()


def test_a_wrong_key_is_told_by_where_it_came_from(server: DemoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_KEY", "stale")
    with pytest.raises(ConfigError, match=r"KAGGLE_USERNAME and KAGGLE_KEY is wrong or stale.*kaggle\.json"):
        connect().check()


def test_a_stale_token_beside_a_good_key_is_told(server: DemoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "stale")
    with pytest.raises(ConfigError, match="token from KAGGLE_API_TOKEN is wrong or stale"):
        connect().check()


def test_no_credentials_say_where_they_go_and_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"no Kaggle credentials.*settings page.*mode 600.*KAGGLE_API_TOKEN"):
        connect()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("place", ["KAGGLE_CONFIG_DIR", "~/.kaggle", "~/.config/kaggle", "KAGGLE_API_TOKEN"])
def test_credentials_are_found_in_each_of_their_places(
    server: DemoServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    monkeypatch.delenv("KAGGLE_USERNAME")
    monkeypatch.delenv("KAGGLE_KEY")
    if place == "KAGGLE_API_TOKEN":
        monkeypatch.setenv(place, "demo-key")
    else:
        folder = tmp_path / "elsewhere" if place.isupper() else Path(place).expanduser()
        folder.mkdir(parents=True)
        (folder / "kaggle.json").write_text(json.dumps({"username": "demo", "key": "demo-key"}))
        monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "elsewhere"))
    assert connect().check() == 4


def test_a_broken_credentials_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    (tmp_path / "kaggle.json").write_text("{")
    with pytest.raises(ConfigError, match=r"kaggle\.json is not the file that Kaggle gives"):
        connect()


def test_a_server_that_is_not_there_may_be_tried_again(server: DemoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ServiceError, match="try 4 of 4"):
        connect().check()


def test_a_submission_is_sent_once_and_scored(server: DemoServer, submission: Path) -> None:
    kaggle = connect()
    first = kaggle.submit(submission, description="a model abc", fingerprint="abc")
    again = connect().submit(submission, description="a model abc", fingerprint="abc")
    assert (first.status, first.public_score, first.ref, len(server.submissions)) == ("PENDING", None, again.ref, 1)
    score = float(server.submissions[0].score)
    assert kaggle.find_submission("abc") == SubmissionState(first.ref, "COMPLETE", score, "", "a model abc")
    assert kaggle.submissions_left() == 49
    assert kaggle.rank(score - 0.01) == 2
    assert kaggle.find_submission("none") is None


def test_a_submission_being_scored_has_no_score(server: DemoServer, submission: Path) -> None:
    server.scoring_seconds = 60
    sent = connect().submit(submission, description="a model", fingerprint="abc")
    assert connect().find_submission("abc") == SubmissionState(sent.ref, "PENDING", None, "", "a model abc")


def test_an_old_submission_is_found_on_a_later_page(server: DemoServer, submission: Path) -> None:
    server.daily_limit = 500
    kaggle = connect()
    first = kaggle.submit(submission, description="first", fingerprint="abc")
    server.submissions.extend(
        type(server.submissions[0])(2000 + n, f"other {n}", "s.csv", "0.5", "", b"") for n in range(250)
    )
    found = kaggle.find_submission("abc")
    assert found is not None and found.ref == first.ref


@pytest.mark.parametrize(
    "fault",
    [
        Fault("CreateSubmission", "drop_after"),  # counted, the answer lost
        Fault("CreateSubmission", "drop"),  # not counted
        Fault("CreateSubmission", "status", 500),
        Fault("CreateSubmission", "status", 429, retry_after=0),
        Fault("CreateSubmission", "html"),
        Fault("CreateSubmission", "drop_after", times=3),
        Fault("StartSubmissionUpload", "status", 503),
        Fault("Upload", "status", 503),
        Fault("Upload", "status", 403),
        Fault("Upload", "drop"),
        Fault("Upload", "stall"),
        Fault("ListSubmissions", "status", 500),
        Fault("ListSubmissions", "html"),
        Fault("GetSubmissionLimits", "drop"),
    ],
    ids=lambda fault: f"{fault.method}-{fault.kind}-{fault.status}",
)
def test_a_submission_counts_exactly_once_whatever_breaks(
    server: DemoServer, submission: Path, fault: Fault
) -> None:
    server.faults.append(Fault(fault.method, fault.kind, fault.status, fault.retry_after, fault.times))
    sent = connect().submit(submission, description="a model", fingerprint="abc")
    assert [(entry.ref, entry.description) for entry in server.submissions] == [(sent.ref, "a model abc")]
    assert server.submissions[0].data == submission.read_bytes()


def test_a_submission_that_cannot_be_sent_is_not_sent_later(server: DemoServer, submission: Path) -> None:
    server.faults.append(Fault("CreateSubmission", "status", 500, times=99))
    with pytest.raises(ServiceError, match="Could not submit"):
        connect().submit(submission, description="a model", fingerprint="abc")
    assert server.submissions == []


def test_a_used_up_daily_limit_tells_when_to_try_again(server: DemoServer, submission: Path) -> None:
    connect().submit(submission, description="one", fingerprint="abc")
    server.daily_limit = 1
    with pytest.raises(ServiceError, match="00:00 UTC"):
        connect().submit(submission, description="two", fingerprint="def")
    assert len(server.submissions) == 1


def test_a_limit_reached_meanwhile_tells_when_to_try_again(server: DemoServer, submission: Path) -> None:
    server.daily_limit = 0  # the limits are all zero, as for who never submitted
    with pytest.raises(ServiceError, match="00:00 UTC"):
        connect().submit(submission, description="one", fingerprint="abc")


def test_a_bad_submission_shows_what_kaggle_says(server: DemoServer, submission: Path) -> None:
    submission.write_text("no,table\n")
    sent = connect().submit(submission, description="bad", fingerprint="abc")
    state = connect().find_submission("abc")
    assert state is not None and state.ref == sent.ref
    assert (state.status, state.public_score, state.error) == ("ERROR", None, server.submissions[0].error)


def test_the_import_is_light_and_the_client_prints_nothing(server: DemoServer, tmp_path: Path) -> None:
    code = (
        "import sys, carclf.services.kaggle as k\n"
        "assert not {'kaggle', 'kagglesdk'} & set(sys.modules)\n"
        f"k.Kaggle({SLUG!r}).download(__import__('pathlib').Path({str(tmp_path / 'new')!r}), timeout_seconds=60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
