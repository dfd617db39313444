"""The Kaggle client against a server on loopback; tests/faults/test_kaggle_matrix.py covers the faults."""

import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import requests
from submissions import submit_file

from carclf.demo.competition import Competition
from carclf.demo.server import DemoServer, Fault
from carclf.errors import ConfigError, ServiceError
from carclf.services.kaggle.archive_download import ArchiveDownload
from carclf.services.kaggle.client import KaggleClient, SubmissionLimits, SubmissionState
from carclf.services.kaggle.retries import TRANSIENT_ERRORS, RetryPolicy, TransientError

SLUG = "demo-cars"
pytestmark = pytest.mark.usefixtures("no_kaggle_credentials")


@pytest.fixture
def server(kaggle_server: DemoServer) -> DemoServer:
    return kaggle_server


def connect(slug: str = SLUG) -> KaggleClient:
    return KaggleClient(slug, max_attempts=4, backoff_seconds=0.01, read_timeout_seconds=0.5)


@pytest.fixture
def submission(tmp_path: Path, random_bytes_competition: Competition) -> Path:
    with zipfile.ZipFile(random_bytes_competition.archive) as archive:
        name = next(name for name in archive.namelist() if name.endswith("submission.csv"))
        (tmp_path / "submission.csv").write_bytes(archive.read(name))
    return tmp_path / "submission.csv"


def test_the_list_of_files_is_stable(server: DemoServer) -> None:
    with zipfile.ZipFile(server.competition.archive) as archive:
        names = sorted(archive.namelist())
    assert connect().check_access() == len(names)
    assert connect().list_files() == connect().list_files()
    assert [name for name, _, _ in connect().list_files()] == names


def test_the_archive_is_downloaded_completely(server: DemoServer, tmp_path: Path) -> None:
    path = connect().download(tmp_path / "new", timeout_seconds=60)
    assert path == tmp_path / "new" / f"{SLUG}.zip"
    assert path.read_bytes() == server.competition.archive.read_bytes()
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupted_download_is_resumed(server: DemoServer, tmp_path: Path) -> None:
    server.faults.append(Fault("Download", "drop"))
    ranges: list[str | None] = []
    url = f"{server.url}/download/{SLUG}.zip?signature={server.signature}"

    def request(headers: dict[str, str]) -> requests.Response:
        ranges.append(headers.get("Range"))
        return requests.get(url, headers=headers, stream=True, timeout=60)

    download = ArchiveDownload(tmp_path / "part", request, deadline=time.monotonic() + 60)
    with pytest.raises(TRANSIENT_ERRORS):
        download.fetch()
    half = download.path.stat().st_size
    download.fetch()
    assert ranges == [None, f"bytes={half}-"]
    assert 0 < half < download.path.stat().st_size
    assert download.path.read_bytes() == server.competition.archive.read_bytes()


def test_a_response_of_several_lines_is_logged_on_one(caplog: pytest.LogCaptureFixture) -> None:
    responses = iter([TransientError("busy\nERROR forged"), None])

    def call() -> None:
        if error := next(responses):
            raise error

    RetryPolicy("KAGGLE_API_TOKEN", max_attempts=2, backoff_seconds=0).call("download cars.zip", call)
    [message] = caplog.messages
    assert r"busy\nERROR forged" in message


def test_a_token_is_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "secret" * 100)  # too long for a path, which the SDK tries first
    with pytest.raises(ConfigError, match="KAGGLE_API_TOKEN") as caught:
        connect()
    assert "secret" not in str(caught.value)


def test_a_folder_without_write_access_raises_config_error(server: DemoServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=str(tmp_path / "file")):
        connect().download(tmp_path / "file" / "new", timeout_seconds=60)


def test_an_expired_token_is_reported_even_if_a_key_is_valid(
    server: DemoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "stale")
    with pytest.raises(ConfigError, match="KAGGLE_API_TOKEN"):
        connect().check_access()


def test_missing_credentials_raise_config_error_and_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"kaggle\.json.*KAGGLE_USERNAME.*KAGGLE_API_TOKEN"):
        connect()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("source", ["KAGGLE_CONFIG_DIR", "~/.kaggle", "~/.config/kaggle", "KAGGLE_API_TOKEN"])
def test_credentials_are_read_from_each_source(
    server: DemoServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    monkeypatch.delenv("KAGGLE_USERNAME")
    monkeypatch.delenv("KAGGLE_KEY")
    if source == "KAGGLE_API_TOKEN":
        monkeypatch.setenv(source, "demo-key")
    else:
        folder = tmp_path / "elsewhere" if source.isupper() else Path(source).expanduser()
        folder.mkdir(parents=True)
        (folder / "kaggle.json").write_text(json.dumps({"username": "demo", "key": "demo-key"}))
        monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "elsewhere"))
    assert connect().check_access() == 41  # with the images in the archives


def test_an_invalid_credentials_file_raises_config_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    (tmp_path / "kaggle.json").write_text("{")
    with pytest.raises(ConfigError, match=str(tmp_path / "kaggle.json")):
        connect()


def test_an_unreachable_server_raises_service_error_after_all_attempts(
    server: DemoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ServiceError, match="4 of 4"):
        connect().check_access()


def test_a_submission_is_sent_once_and_scored(server: DemoServer, submission: Path) -> None:
    kaggle = connect()
    first = submit_file(kaggle, submission, "abc")
    again = submit_file(connect(), submission, "abc")
    assert (first.status, first.public_score, first.ref, len(server.submissions)) == ("PENDING", None, again.ref, 1)
    score = float(server.submissions[0].score)
    assert kaggle.find_submission("abc") == SubmissionState(first.ref, "COMPLETE", score, "", "carclf abc")
    assert kaggle.submission_limits() == SubmissionLimits(1, 1, 49, limited_by_total=False)
    assert kaggle.leaderboard_rank(score - 0.01) == 2
    assert kaggle.find_submission("none") is None


def test_an_old_submission_is_found_on_a_later_page(server: DemoServer, submission: Path) -> None:
    server.daily_limit = 500
    kaggle = connect()
    first = submit_file(kaggle, submission, "abc")
    server.submissions.extend(
        type(server.submissions[0])(2000 + n, f"other {n}", "s.csv", "0.5", "", b"") for n in range(250)
    )
    existing = kaggle.find_submission("abc")
    assert existing is not None
    assert existing.ref == first.ref


def test_the_import_loads_no_sdk_and_the_client_prints_nothing(server: DemoServer, tmp_path: Path) -> None:
    code = (
        "import sys, carclf.services.kaggle.client as k\n"
        "assert not {'kaggle', 'kagglesdk'} & set(sys.modules)\n"
        f"k.KaggleClient({SLUG!r}).download(k.Path({str(tmp_path / 'new')!r}), timeout_seconds=60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
