"""Fixtures for all tests: a cache of their own, no access to the user's Kaggle account, and a local Kaggle server."""

import os
import random
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment

import hypothesis
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from carclf.demo.competition import Competition, open_competition
from carclf.demo.server import DemoServer

RunOnSmallDisk = Callable[..., subprocess.CompletedProcess[str]]

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
hypothesis.settings.register_profile("carclf", deadline=None)  # a busy machine is slower
hypothesis.settings.load_profile("carclf")
os.environ["CARCLF_DEMO_KEY"] = "demo-key"  # of the demo servers, which otherwise generate one
CARCLF_VARIABLES = ("CARCLF_STORE", "CARCLF_RECIPE", "CARCLF_SETTINGS", "CARCLF_POLICY")
KAGGLE_VARIABLES = ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN")
S3_VARIABLES = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the rows that the tests of the gallery recorded, also those of other processes (xdist)."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    rows = [value for report in reports if report.when == "call" for name, value in report.user_properties
            if name == "gallery"]
    if rows:
        terminalreporter.write_sep("=", "gallery")
        for row in rows:
            terminalreporter.write_line(str(row))


@pytest.fixture(autouse=True)
def isolated_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("CARCLF_CACHE", str(cache))
    for name in CARCLF_VARIABLES + KAGGLE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CARCLF_CREATE_STORE", "true")
    return cache


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The URL of moto's server, which handles one request at a time.

    It loses parts that arrive together, and responds with 500 if an object is overwritten while it is read.
    """
    application, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def handle_one_at_a_time(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with lock:
            return application(environ, start_response)

    server = make_server("127.0.0.1", 0, handle_one_at_a_time, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


@pytest.fixture
def aws(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local S3 server and the environment variables that point to it."""
    for name, value in S3_VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)


@pytest.fixture(params=["folder", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store that does not exist yet, of each kind; the path of the folder contains a space."""
    if request.param == "folder":
        return str(tmp_path / "my store")
    import boto3

    request.getfixturevalue("aws")
    boto3.client("s3").create_bucket(Bucket="stores")
    return f"s3://stores/{tmp_path.name}"


@pytest.fixture
def run_on_small_disk() -> RunOnSmallDisk:
    """Run a command with a disk of this many MB mounted at the folder, visible to the command alone."""

    def run(
        folder: Path, megabytes: int, command: list[str], *, max_files: int = 0
    ) -> subprocess.CompletedProcess[str]:
        folder.mkdir()
        script = f'mount -t tmpfs -o size={megabytes}m,nr_inodes={max_files} none "$0" && exec "$@"'
        mount = [shutil.which("unshare") or "false", "-rm", "sh", "-c", script, str(folder)]
        if subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
            pytest.skip("users cannot mount disks on this system")
        return subprocess.run([*mount, *command], capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def random_bytes_competition(tmp_path_factory: pytest.TempPathFactory) -> Competition:
    """A competition whose images are random bytes: the Kaggle client never decodes them."""
    folder, rng = tmp_path_factory.mktemp("competition"), random.Random(0)
    names = [f"{number}.jpg" for number in range(40)]
    for name in names:
        path = folder / ("test_upload" if name < "2" else f"train/{name[0]}") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(100_000))
    rows = "".join(f"{name},0\n" for name in names if name < "2")
    for name in ("truth.csv", "sample-submission.csv"):
        (folder / name).write_text(f"Id,Category\n{rows}")
    return open_competition(folder, slug="demo-cars", work=folder / "work", truth=folder / "truth.csv")


@pytest.fixture
def no_kaggle_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials in any of the places where Kaggle's client searches for them."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("KAGGLE_CONFIG_DIR", "CARCLF_KAGGLE_ENDPOINT", *KAGGLE_VARIABLES):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def kaggle_server(
    random_bytes_competition: Competition, no_kaggle_credentials: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DemoServer]:
    """A Kaggle server for the small competition, and the environment variables that point to it."""
    with DemoServer(random_bytes_competition, scoring_seconds=0) as server:
        monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", server.url)
        monkeypatch.setenv("KAGGLE_USERNAME", "demo")
        monkeypatch.setenv("KAGGLE_KEY", "demo-key")
        yield server
