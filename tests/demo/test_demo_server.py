"""Kaggle's unmodified client against the demo server."""

import contextlib
import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from carclf.demo.competition import Competition, open_competition
from carclf.demo.kaggle_backend import MAX_UPLOADS
from carclf.demo.server import MAX_CONNECTIONS, DemoServer, Fault
from carclf.errors import ConfigError

SLUG = "demo-cars"
API = "v1/competitions.CompetitionApiService"


@pytest.fixture
def submission(competition: Competition, tmp_path: Path) -> Path:
    assert competition.truth is not None
    rows = "".join(f"{name},{competition.truth[name]}\n" for name in competition.ids)
    (tmp_path / "my submission.csv").write_text(f"Id,Category\n{rows}")
    return tmp_path / "my submission.csv"


def call(server: DemoServer, method: str, **request: Any) -> requests.Response:
    body = {"competitionName": SLUG} | request
    return requests.post(f"{server.url}/{API}/{method}", json=body, auth=("demo", "demo-key"), timeout=60)


def states(client: Any) -> list[tuple[int, str, str, str]]:
    """Return reference, status, score and error of each submission."""
    submissions = client.competition_submissions(SLUG)
    return [(s.ref, s.status.name, s.public_score, s.error_description) for s in submissions]


def test_the_client_lists_the_files_with_their_sizes(client: Any, competition: Competition) -> None:
    with zipfile.ZipFile(competition.archive) as archive:
        sizes = {member.filename: member.file_size for member in archive.infolist()}
    first = client.competition_list_files(SLUG, page_size=50)
    second = client.competition_list_files(SLUG, first.next_page_token, page_size=50)
    assert (len(first.files), second.next_page_token) == (50, "")
    assert {file.name: file.total_bytes for file in [*first.files, *second.files]} == sizes


def test_the_client_downloads_the_archive(client: Any, competition: Competition, tmp_path: Path) -> None:
    client.competition_download_files(SLUG, path=str(tmp_path / "new"))
    assert (tmp_path / "new" / f"{SLUG}.zip").read_bytes() == competition.archive.read_bytes()


def test_the_client_downloads_one_file(client: Any, rendered: Path, tmp_path: Path) -> None:
    client.competition_download_file(SLUG, "train.csv", path=str(tmp_path / "new"))
    assert (tmp_path / "new" / "train.csv").read_bytes() == (rendered / "train.csv").read_bytes()


def test_the_client_resumes_an_interrupted_download(
    client: Any, server: DemoServer, competition: Competition, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults.append(Fault("Download", "drop"))
    client.competition_download_files(SLUG, path=str(tmp_path / "new"), quiet=False)
    assert (tmp_path / "new" / f"{SLUG}.zip").read_bytes() == competition.archive.read_bytes()
    assert "Resuming from" in capsys.readouterr().out


def test_the_client_submits_and_gets_the_score(client: Any, server: DemoServer, submission: Path) -> None:
    response = client.competition_submit(str(submission), "a model", SLUG, quiet=True)
    assert (response.message, response.ref) == (f"Successfully submitted to {SLUG}", 1001)
    assert states(client) == [(1001, "COMPLETE", "1.00000", "")]
    (entry,) = server.submissions
    assert (entry.file_name, entry.description) == ("my submission.csv", "a model")
    assert [row.score for row in client.competition_leaderboard_view(SLUG)] == ["1.00000"]


def test_a_submission_is_pending_until_it_is_scored(client: Any, server: DemoServer, submission: Path) -> None:
    server.scoring_seconds = 60
    client.competition_submit(str(submission), "a model", SLUG, quiet=True)
    assert states(client) == [(1001, "PENDING", "", "")]
    assert client.competition_leaderboard_view(SLUG) == []
    server.scoring_seconds = 0
    assert call(server, "GetSubmission", ref=1001).json()["publicScore"] == "1.00000"


@pytest.mark.parametrize("text", ["", "no,table\n"])
def test_an_invalid_submission_is_accepted_and_graded_with_an_error(client: Any, submission: Path, text: str) -> None:
    submission.write_text(text)
    client.competition_submit(str(submission), "bad", SLUG, quiet=True)
    assert states(client) == [(1001, "ERROR", "", "The columns must be Id,Category")]


def test_the_score_is_empty_without_a_truth(
    client: Any, server: DemoServer, rendered: Path, submission: Path
) -> None:
    server.competition = open_competition(rendered, slug=SLUG, work=submission.parent)
    client.competition_submit(str(submission), "a model", SLUG, quiet=True)
    assert states(client) == [(1001, "COMPLETE", "", "")]


def test_the_daily_limit_is_enforced(client: Any, server: DemoServer, submission: Path) -> None:
    server.daily_limit = 1
    client.competition_submit(str(submission), "a model", SLUG, quiet=True)
    limits = {"numToday": 1, "numTotal": 1, "numAllowedNow": 0, "limitedByTotal": False}
    assert call(server, "GetSubmissionLimits").json() == limits
    with pytest.raises(requests.HTTPError, match="daily Submission allowance"):
        client.competition_submit(str(submission), "a model", SLUG, quiet=True)
    server.submissions[0].created -= 86_400
    assert call(server, "GetSubmissionLimits").json() == limits | {"numToday": 0, "numAllowedNow": 1}


def test_a_wrong_key_returns_401(server: DemoServer, client: Any) -> None:
    client.config_values["key"] = "wrong"
    with pytest.raises(requests.HTTPError, match="Unauthorized") as caught:
        client.competition_list_files(SLUG)
    assert caught.value.response.status_code == 401


def test_rules_that_are_not_accepted_return_403(server: DemoServer, client: Any, tmp_path: Path) -> None:
    server.rules_accepted = False
    with pytest.raises(requests.HTTPError, match="You must accept this competition's rules") as caught:
        client.competition_download_files(SLUG, path=str(tmp_path / "new"))
    assert caught.value.response.status_code == 403


def test_an_unknown_competition_returns_404(client: Any) -> None:
    with pytest.raises(requests.HTTPError, match="not found") as caught:
        client.competition_list_files("other")
    assert caught.value.response.status_code == 404


@pytest.mark.parametrize(("token", "name"), [("demo-key", "demo"), ("stale", None)])
def test_an_access_token_is_checked(server: DemoServer, token: str, name: str | None) -> None:
    """Kaggle's client makes this call when it authenticates by a token."""
    url = f"{server.url}/v1/security.OAuthService/IntrospectToken"
    response = requests.post(url, json={"token": token}, timeout=60).json()
    assert (response["active"], response["username"] or None) == (name is not None, name)


def test_a_submission_counts_although_its_response_is_lost(client: Any, server: DemoServer, submission: Path) -> None:
    server.faults.append(Fault("CreateSubmission", "drop_after"))
    with pytest.raises(requests.ConnectionError):
        client.competition_submit(str(submission), "a model", SLUG, quiet=True)
    assert len(server.submissions) == 1


@pytest.mark.parametrize(("kind", "fraction"), [("truncate", 0.5), ("corrupt", 1.0)])
def test_a_corrupt_archive_has_the_correct_size(  # noqa: PLR0913, PLR0917 (fixtures)
    client: Any, server: DemoServer, competition: Competition, tmp_path: Path, kind: Any, fraction: float
) -> None:
    server.faults.append(Fault("Download", kind))
    client.competition_download_files(SLUG, path=str(tmp_path / "new"))  # reports success, as with Kaggle
    path = tmp_path / "new" / f"{SLUG}.zip"
    assert path.stat().st_size == int(competition.archive.stat().st_size * fraction)
    with pytest.raises(zipfile.BadZipFile):
        members = zipfile.ZipFile(path)
        raise zipfile.BadZipFile(members.testzip()) if members.testzip() else AssertionError("the archive is whole")


def test_faults_apply_in_order_to_the_calls_of_a_method(server: DemoServer) -> None:
    server.faults += [
        Fault("ListDataFiles", "status", 429, retry_after=7),
        Fault("ListDataFiles", "html", times=2),
        Fault("GetLeaderboard", "status", 503),
    ]
    responses = [call(server, "ListDataFiles") for _ in range(4)]
    assert [(r.status_code, r.headers.get("Retry-After"), r.headers["Content-Type"]) for r in responses] == [
        (429, "7", "application/json"),
        (200, None, "text/html"),
        (200, None, "text/html"),
        (200, None, "application/json"),
    ]
    assert call(server, "GetLeaderboard").status_code == 503


def test_a_stalled_response_ends_when_the_server_closes(competition: Competition) -> None:
    """Connection threads are daemons, so leaving the block proves nothing: the response must end."""
    with ThreadPoolExecutor(1) as pool:
        with DemoServer(competition) as server:
            server.faults.append(Fault("ListDataFiles", "stall"))
            pending = pool.submit(call, server, "ListDataFiles")
            while server.calls["ListDataFiles"] == 0:
                assert not pending.done()
            assert not pending.done()
        with pytest.raises(requests.ConnectionError):  # not Timeout after 9 s; the stall would last 30 s
            pending.result()


@pytest.mark.parametrize(
    ("headers", "status", "start"),
    [
        ({"Range": "bytes=10-"}, 206, 10),
        ({"Range": "bytes=10-", "If-Range": '"another"'}, 200, 0),
        ({"Range": "bytes=999999999-"}, 416, None),
    ],
)
def test_ranges_are_served_as_the_http_standard_requires(
    server: DemoServer, competition: Competition, headers: dict[str, str], status: int, start: int | None
) -> None:
    address = requests.post(
        f"{server.url}/{API}/DownloadDataFiles",
        json={"competitionName": SLUG},
        auth=("demo", "demo-key"),
        allow_redirects=False,
        timeout=60,
    ).headers["Location"]
    response = requests.get(address, headers=headers, timeout=60)
    body = b"" if start is None else competition.archive.read_bytes()[start:]
    assert (response.status_code, response.content) == (status, body)
    assert requests.get(address + "0", timeout=60).status_code == 403  # another signature


@pytest.mark.parametrize("body", [b"no JSON", b"[]", b'{"competitionName": "demo-cars", "pageSize": "x"}'])
def test_a_malformed_request_returns_400(server: DemoServer, body: bytes) -> None:
    response = requests.post(f"{server.url}/{API}/ListSubmissions", data=body, auth=("demo", "demo-key"), timeout=60)
    assert (response.status_code, response.json()["code"]) == (400, 400)


@pytest.mark.parametrize("path", ["v1/other.Service/List", f"{API}/DeleteEverything", "", f"{API}/__init__"])
def test_an_unknown_method_returns_404(server: DemoServer, path: str) -> None:
    response = requests.post(
        f"{server.url}/{path}", json={"competitionName": SLUG}, auth=("demo", "demo-key"), timeout=60
    )
    assert response.status_code == 404


def test_each_server_has_its_own_key(competition: Competition, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CARCLF_DEMO_KEY")
    with DemoServer(competition) as first, DemoServer(competition) as second:
        assert first.token != second.token
        assert len(first.token) == 32
        assert call(first, "ListSubmissions").status_code == 401  # demo-key
        first_url = call_with_key(first, "StartSubmissionUpload")["createUrl"]
        assert first_url != call_with_key(first, "StartSubmissionUpload")["createUrl"]


def call_with_key(server: DemoServer, method: str) -> Any:
    url = f"{server.url}/{API}/{method}"
    return requests.post(url, json={"competitionName": SLUG}, auth=("demo", server.token), timeout=60).json()


@pytest.mark.parametrize(("headers", "status"), [
    ({"Content-Length": "-1"}, 400), ({"Content-Length": "+5"}, 400), ({"Content-Length": "1_0"}, 400),
    ({"Content-Length": "0x5"}, 400), ({"Content-Length": ""}, 400), ({"Content-Length": "5, 5"}, 400),
    ({"Content-Length": "999999999"}, 413), ({"Content-Length": "9" * 5000}, 413),
    ({"Transfer-Encoding": "gzip"}, 400), ({"Transfer-Encoding": "chunked", "Content-Length": "5"}, 400),
])
@pytest.mark.parametrize("method", ["POST", "PUT", "GET"])
def test_an_invalid_length_is_rejected(server: DemoServer, method: str, headers: dict[str, str], status: int) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    assert exchange(server, f"{method} /{API}/ListSubmissions HTTP/1.1\r\n{head}\r\n12345".encode()) == [status]


@pytest.mark.parametrize(("chunks", "status"), [
    (b"-1\r\n", 400), (b"zz\r\n", 400), (b"1_0\r\n", 400), (b"5\r\n12", 400), (b"ffffffff\r\n", 413),
    (b"5\r\n12345XX\r\n0\r\n\r\n", 400), (b"1" * 2000, 400), (b"400000\r\n" + b"x" * 0x400000 + b"\r\n", 413),
])
def test_an_invalid_chunk_is_rejected(server: DemoServer, chunks: bytes, status: int) -> None:
    request = b"PUT /upload/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks * 3
    assert exchange(server, request) == [status]


def exchange(server: DemoServer, request: bytes) -> list[int]:
    """Send bytes on one connection and return the statuses of the responses until the server closes it."""
    with socket.create_connection(urlsplit(server.url).netloc.split(":"), 9) as connection:
        with contextlib.suppress(OSError):  # the server closes the connection before it has received everything
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    return [int(status) for status in re.findall(rb"^HTTP/1.1 (\d+)", received, re.MULTILINE)]


def request_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if "process_request_thread" in thread.name}


def test_the_number_of_connections_is_limited(server: DemoServer) -> None:
    address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    earlier = request_threads()  # of other servers in this process
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            stack.enter_context(socket.create_connection(address, 9))
        statuses = [exchange(server, b"")[0] for _ in range(20)]
        assert statuses == [503] * 20
        assert len(request_threads() - earlier) <= MAX_CONNECTIONS
    while server.http.free_connections._value < MAX_CONNECTIONS:
        time.sleep(0.01)
    assert call(server, "ListSubmissions").status_code == 200


def test_the_number_of_uploads_in_memory_is_limited(server: DemoServer) -> None:
    for _ in range(MAX_UPLOADS + 5):
        server.handle_call("StartSubmissionUpload", {"competitionName": SLUG})
    assert len(server.uploads) == MAX_UPLOADS


def test_a_taken_port_raises_config_error(server: DemoServer, competition: Competition) -> None:
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(ConfigError, match=f"port {port}"):
        DemoServer(competition, address=("127.0.0.1", port))


def test_the_command_serves_kaggles_command_line_through_a_proxy(rendered: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "carclf", "demo-server", "--data", str(rendered), "--slug", SLUG,
               "--truth", str(rendered / "truth.csv"), "--work-dir", str(tmp_path)]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        line = serving.stdout.readline()
        match = re.search(rf"'{SLUG}' at (http://127\.0\.0\.1:\d+) \(user demo, key (.*)\)", line)
        assert match, line
        assert match[2] == "the value of CARCLF_DEMO_KEY"
        kaggle(match[1], tmp_path, "download", SLUG, "-p", str(tmp_path / "new"))
        submitted = kaggle(match[1], tmp_path, "submit", SLUG, "-f", str(rendered / "truth.csv"), "-m", "by hand")
        assert "Successfully submitted" in submitted
        assert "sample-submission.csv" in kaggle(match[1], tmp_path, "files", SLUG)
        time.sleep(1)  # until the submission is scored
        assert "1.00000" in kaggle(match[1], tmp_path, "submissions", SLUG)
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(60) == 0
    assert (tmp_path / "new" / f"{SLUG}.zip").read_bytes() == (tmp_path / f"{SLUG}.zip").read_bytes()


def kaggle(proxy: str, home: Path, *arguments: str) -> str:
    """Run Kaggle's command line through the demo server as its proxy; return what it prints."""
    environment = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"} | {
        "KAGGLE_API_ENVIRONMENT": "LOCALHOST", "HTTP_PROXY": proxy, "http_proxy": proxy, "HOME": str(home),
        "KAGGLE_CONFIG_DIR": str(home / "config"), "KAGGLE_USERNAME": "demo", "KAGGLE_KEY": "demo-key",
    }
    code = "import sys; from kaggle.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "competitions", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_submissions_to_several_competitions_survive_a_restart(competition: Competition, tmp_path: Path) -> None:
    other = dataclasses.replace(competition, slug="other", metric="macro_f1", evaluation_metric="MeanFScore")
    path = tmp_path / "submissions.json"
    rows = "".join(f"{name},{label}\n" for name, label in (competition.truth or {}).items())
    for num_earlier in range(2):
        with DemoServer(competition, other, scoring_seconds=0, submissions_path=path) as server:
            upload = call(server, "StartSubmissionUpload", fileName="s.csv").json()
            requests.put(upload["createUrl"], data=f"Id,Category\n{rows}".encode(), timeout=60)
            call(server, "CreateSubmission", competitionName="other", blobFileTokens=upload["token"])
            assert call(server, "ListSubmissions").json()["submissions"] == []
            listed = call(server, "ListSubmissions", competitionName="other").json()["submissions"]
            assert [entry["publicScore"] for entry in listed] == ["1.00000"] * (num_earlier + 1)
    with DemoServer(competition, scoring_seconds=0, submissions_path=path) as server:
        assert [entry.score for entry in server.submissions] == ["", ""]  # the other one is not served any more
        assert call(server, "ListSubmissions").json()["submissions"] == []


def test_a_member_in_a_folder_of_the_archive_is_downloaded(tmp_path: Path, competition: Competition) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("train/a b/1.txt", "one")
    nested = Competition("nested", tmp_path / "a.zip", (), None)
    with DemoServer(competition, nested) as server:
        response = call(server, "DownloadDataFile", competitionName="nested", fileName="train/a b/1.txt")
        assert (response.url.partition("?")[0].rpartition("/")[2], response.text) == ("1.txt", "one")
        assert call(server, "DownloadDataFile", competitionName="nested", fileName="x").status_code == 404


def test_redirects_use_the_servers_host_name(competition: Competition) -> None:
    with DemoServer(competition, address=("localhost", 0)) as server:
        downloaded = call(server, "DownloadDataFiles")
        upload = call(server, "StartSubmissionUpload", fileName="submission.csv").json()["createUrl"]
    assert server.url.startswith("http://localhost:")
    assert downloaded.url.startswith(f"{server.url}/download/demo-cars.zip")
    assert downloaded.status_code == 200
    assert upload.startswith(f"{server.url}/upload/")
