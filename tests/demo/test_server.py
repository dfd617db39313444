"""The real, unmodified Kaggle client against the loopback server."""

import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import requests

from carclf.demo.competition import Competition, open_competition
from carclf.demo.server import DemoServer, Fault
from carclf.errors import ConfigError

SLUG = "demo-cars"
API = "v1/competitions.CompetitionApiService"


@pytest.fixture
def perfect(competition: Competition, tmp_path: Path) -> Path:
    assert competition.truth is not None
    rows = "".join(f"{name},{competition.truth[name]}\n" for name in competition.ids)
    (tmp_path / "my answers.csv").write_text(f"Id,Category\n{rows}")
    return tmp_path / "my answers.csv"


def call(server: DemoServer, method: str, **request: Any) -> requests.Response:
    auth = ("demo", "demo-key")
    return requests.post(f"{server.url}/{API}/{method}", json={"competitionName": SLUG} | request, auth=auth, timeout=9)


def states(client: Any) -> list[tuple[int, str, str, str]]:
    found = client.competition_submissions(SLUG)
    return [(s.ref, s.status.name, s.public_score, s.error_description) for s in found]


def test_the_client_lists_the_files_with_their_sizes(client: Any, competition: Competition) -> None:
    with zipfile.ZipFile(competition.archive) as archive:
        sizes = {member.filename: member.file_size for member in archive.infolist()}
    assert {file.name: file.total_bytes for file in client.competition_list_files(SLUG).files} == sizes


def test_the_client_downloads_the_archive(client: Any, competition: Competition, tmp_path: Path) -> None:
    client.competition_download_files(SLUG, path=str(tmp_path / "new"))
    assert (tmp_path / "new" / f"{SLUG}.zip").read_bytes() == competition.archive.read_bytes()


def test_the_client_downloads_one_file(client: Any, rendered: Path, tmp_path: Path) -> None:
    client.competition_download_file(SLUG, "train.csv", path=str(tmp_path / "new"))
    assert (tmp_path / "new" / "train.csv").read_bytes() == (rendered / "train.csv").read_bytes()


def test_the_client_resumes_a_download_that_broke(
    client: Any, server: DemoServer, competition: Competition, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults.append(Fault("Download", "drop"))
    client.competition_download_files(SLUG, path=str(tmp_path / "new"), quiet=False)
    assert (tmp_path / "new" / f"{SLUG}.zip").read_bytes() == competition.archive.read_bytes()
    assert "Resuming from" in capsys.readouterr().out


def test_the_client_submits_and_gets_the_score(client: Any, server: DemoServer, perfect: Path) -> None:
    answer = client.competition_submit(str(perfect), "a model", SLUG, quiet=True)
    assert (answer.message, answer.ref) == (f"Successfully submitted to {SLUG}", 1001)
    assert states(client) == [(1001, "COMPLETE", "1.00000", "")]
    (entry,) = server.submissions
    assert (entry.file_name, entry.description) == ("my answers.csv", "a model")
    assert [row.score for row in client.competition_leaderboard_view(SLUG)] == ["1.00000"]


def test_a_submission_is_pending_until_it_is_scored(client: Any, server: DemoServer, perfect: Path) -> None:
    server.scoring_seconds = 60
    client.competition_submit(str(perfect), "a model", SLUG, quiet=True)
    assert states(client) == [(1001, "PENDING", "", "")]
    assert client.competition_leaderboard_view(SLUG) == []
    server.scoring_seconds = 0
    assert call(server, "GetSubmission", ref=1001).json()["publicScore"] == "1.00000"


@pytest.mark.parametrize("text", ["", "no,table\n"])
def test_a_bad_submission_is_accepted_and_then_an_error(client: Any, perfect: Path, text: str) -> None:
    perfect.write_text(text)
    client.competition_submit(str(perfect), "bad", SLUG, quiet=True)
    assert states(client) == [(1001, "ERROR", "", "The columns must be Id,Category")]


def test_without_a_truth_the_score_stays_empty(client: Any, server: DemoServer, rendered: Path, perfect: Path) -> None:
    server.competition = open_competition(rendered, slug=SLUG, work=perfect.parent)
    client.competition_submit(str(perfect), "a model", SLUG, quiet=True)
    assert states(client) == [(1001, "COMPLETE", "", "")]


def test_the_daily_limit_is_counted_and_kept(client: Any, server: DemoServer, perfect: Path) -> None:
    server.daily_limit = 1
    client.competition_submit(str(perfect), "a model", SLUG, quiet=True)
    limits = {"numToday": 1, "numTotal": 1, "numAllowedNow": 0, "limitedByTotal": False}
    assert call(server, "GetSubmissionLimits").json() == limits
    with pytest.raises(requests.HTTPError, match="daily submission limit"):
        client.competition_submit(str(perfect), "a model", SLUG, quiet=True)
    server.submissions[0].created -= 86_400
    assert call(server, "GetSubmissionLimits").json() == limits | {"numToday": 0, "numAllowedNow": 1}


def test_a_wrong_key_is_401(server: DemoServer, client: Any) -> None:
    client.config_values["key"] = "wrong"
    with pytest.raises(requests.HTTPError, match="Unauthorized") as caught:
        client.competition_list_files(SLUG)
    assert caught.value.response.status_code == 401


def test_rules_that_are_not_accepted_are_403_in_kaggles_words(server: DemoServer, client: Any, tmp_path: Path) -> None:
    server.rules_accepted = False
    with pytest.raises(requests.HTTPError, match="You must accept this competition's rules") as caught:
        client.competition_download_files(SLUG, path=str(tmp_path / "new"))
    assert caught.value.response.status_code == 403


def test_an_unknown_competition_is_404(client: Any) -> None:
    with pytest.raises(requests.HTTPError, match="not found") as caught:
        client.competition_list_files("other")
    assert caught.value.response.status_code == 404


@pytest.mark.parametrize(("token", "name"), [("demo-key", "demo"), ("stale", None)])
def test_an_access_token_is_checked(client: Any, token: str, name: str | None) -> None:
    assert client._introspect_token(token) == name


def test_a_submission_counts_although_its_answer_is_lost(client: Any, server: DemoServer, perfect: Path) -> None:
    server.faults.append(Fault("CreateSubmission", "drop_after"))
    with pytest.raises(requests.ConnectionError):
        client.competition_submit(str(perfect), "a model", SLUG, quiet=True)
    assert len(server.submissions) == 1


@pytest.mark.parametrize(("kind", "share"), [("truncate", 0.5), ("corrupt", 1.0)])
def test_an_archive_broken_at_its_source_comes_with_a_matching_size(
    client: Any, server: DemoServer, competition: Competition, tmp_path: Path, kind: Any, share: float
) -> None:
    server.faults.append(Fault("Download", kind))
    client.competition_download_files(SLUG, path=str(tmp_path / "new"))  # reports success, as with Kaggle
    path = tmp_path / "new" / f"{SLUG}.zip"
    assert path.stat().st_size == int(competition.archive.stat().st_size * share)
    with pytest.raises(zipfile.BadZipFile):
        members = zipfile.ZipFile(path)
        raise zipfile.BadZipFile(members.testzip()) if members.testzip() else AssertionError("the archive is whole")


def test_faults_are_used_up_in_order_and_by_method(server: DemoServer) -> None:
    server.faults += [
        Fault("ListDataFiles", "status", 429, retry_after=7),
        Fault("ListDataFiles", "html", times=2),
        Fault("GetLeaderboard", "status", 503),
    ]
    answers = [call(server, "ListDataFiles") for _ in range(4)]
    assert [(a.status_code, a.headers.get("Retry-After"), a.headers["Content-Type"]) for a in answers] == [
        (429, "7", "application/json"),
        (200, None, "text/html"),
        (200, None, "text/html"),
        (200, None, "application/json"),
    ]
    assert call(server, "GetLeaderboard").status_code == 503


def test_a_stalled_answer_ends_with_the_server(competition: Competition) -> None:
    with DemoServer(competition) as server:
        server.faults.append(Fault("ListDataFiles", "stall"))
        with pytest.raises(requests.Timeout):
            requests.post(f"{server.url}/{API}/ListDataFiles", json={}, auth=("demo", "demo-key"), timeout=0.2)
        start = time.monotonic()
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("headers", "status", "start"),
    [
        ({"Range": "bytes=10-"}, 206, 10),
        ({"Range": "bytes=10-", "If-Range": '"another"'}, 200, 0),
        ({"Range": "bytes=999999999-"}, 416, None),
    ],
)
def test_ranges_are_served_as_the_standard_says(
    server: DemoServer, competition: Competition, headers: dict[str, str], status: int, start: int | None
) -> None:
    address = requests.post(
        f"{server.url}/{API}/DownloadDataFiles",
        json={"competitionName": SLUG},
        auth=("demo", "demo-key"),
        allow_redirects=False,
        timeout=9,
    ).headers["Location"]
    answer = requests.get(address, headers=headers, timeout=9)
    body = b"" if start is None else competition.archive.read_bytes()[start:]
    assert (answer.status_code, answer.content) == (status, body)
    assert requests.get(address + "0", timeout=9).status_code == 403  # another signature


@pytest.mark.parametrize("body", [b"no JSON", b"[]", b'{"competitionName": "demo-cars", "pageSize": "x"}'])
def test_a_malformed_request_is_400(server: DemoServer, body: bytes) -> None:
    answer = requests.post(f"{server.url}/{API}/ListSubmissions", data=body, auth=("demo", "demo-key"), timeout=9)
    assert (answer.status_code, answer.json()["code"]) == (400, 400)


@pytest.mark.parametrize("path", ["v1/other.Service/List", f"{API}/DeleteEverything", "", f"{API}/__init__"])
def test_what_is_not_served_is_404(server: DemoServer, path: str) -> None:
    answer = requests.post(
        f"{server.url}/{path}", json={"competitionName": SLUG}, auth=("demo", "demo-key"), timeout=9
    )
    assert answer.status_code == 404


def test_a_port_that_is_taken_is_told(server: DemoServer, competition: Competition) -> None:
    with pytest.raises(ConfigError, match="Give a free one, or 0 for any"):
        DemoServer(competition, port=int(server.url.rpartition(":")[2]))


def test_the_command_serves_the_clients_own_command_line_by_proxy(rendered: Path, tmp_path: Path) -> None:
    arguments = (rendered, rendered / "truth.csv", None, ("127.0.0.1", 0), SLUG, tmp_path)
    code = (
        "from pathlib import PosixPath, Path; from carclf.demo.serve import serve; serve(*" + repr(arguments) + ")"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        line = serving.stdout.readline()
        found = re.fullmatch(
            rf"carclf demo-server: competition '{SLUG}' at (http://127\.0\.0\.1:\d+) \(user demo, key demo-key\)\n",
            line,
        )
        assert found, line
        environment = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"} | {
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "HTTP_PROXY": found[1],
            "http_proxy": found[1],
            "HOME": str(tmp_path),
            "KAGGLE_CONFIG_DIR": str(tmp_path / "config"),
            "KAGGLE_USERNAME": "demo",
            "KAGGLE_KEY": "demo-key",
        }
        for words in (["download", SLUG, "-p", str(tmp_path / "new")],
                      ["submit", SLUG, "-f", str(rendered / "sample-submission.csv"), "-m", "zeros"]):  # fmt: skip
            code = "import sys; from kaggle.cli import main; sys.exit(main())"
            command = [sys.executable, "-c", code, "competitions", *words]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
            assert done.returncode == 0, done.stdout + done.stderr
        assert "Successfully submitted" in done.stdout
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(10) == 0
    assert (tmp_path / "new" / f"{SLUG}.zip").read_bytes() == (tmp_path / f"{SLUG}.zip").read_bytes()


def test_clients_are_sent_to_the_name_by_which_they_reach_it(competition: Competition) -> None:
    with DemoServer(competition, host="localhost") as server:
        downloaded = call(server, "DownloadDataFiles")
        upload = call(server, "StartSubmissionUpload", fileName="answers.csv").json()["createUrl"]
    assert server.url.startswith("http://localhost:")
    assert downloaded.url.startswith(f"{server.url}/download/demo-cars.zip")
    assert downloaded.status_code == 200
    assert upload == f"{server.url}/upload/upload-0"
