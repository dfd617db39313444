"""What all tests share: a cache of their own, no way to the user's Kaggle account, and a Kaggle on loopback."""

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from carclf.demo.competition import Competition, open_competition
from carclf.demo.server import DemoServer

RunOnSmallDisk = Callable[[Path, int, list[str]], subprocess.CompletedProcess[str]]

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


@pytest.fixture(autouse=True)
def isolated_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("CARCLF_CACHE", str(cache))
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "CARCLF_STORE", "CARCLF_RECIPE", "CARCLF_SETTINGS"):
        monkeypatch.delenv(name, raising=False)
    return cache


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def aws(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real S3 server and the variables that lead to it."""
    for name, value in {"AWS_ENDPOINT_URL": s3_endpoint, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
                        "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def run_on_small_disk() -> RunOnSmallDisk:
    """Run a command that sees a disk of so many MB at the folder, which nobody else sees."""

    def run(folder: Path, megabytes: int, command: list[str]) -> subprocess.CompletedProcess[str]:
        folder.mkdir()
        script = f'mount -t tmpfs -o size={megabytes}m none "$0" && exec "$@"'
        if not (unshare := shutil.which("unshare")) or subprocess.run(
                [unshare, "-rm", "sh", "-c", script, str(folder), "true"], capture_output=True).returncode:
            pytest.skip("this system lets no user mount a disk of his own")
        return subprocess.run([unshare, "-rm", "sh", "-c", script, str(folder), *command], capture_output=True,
                              text=True)

    return run


@pytest.fixture(scope="session")
def random_bytes_competition(tmp_path_factory: pytest.TempPathFactory) -> Competition:
    """One whose pictures are any bytes that do not compress: the service never looks into them."""
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
    """No credentials in any of Kaggle's places."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("KAGGLE_CONFIG_DIR", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "CARCLF_KAGGLE_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def kaggle(random_bytes_competition: Competition, no_kaggle_credentials: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[DemoServer]:
    """A server for the small competition, and the variables that lead to it."""
    with DemoServer(random_bytes_competition, scoring_seconds=0) as running:
        monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", running.url)
        monkeypatch.setenv("KAGGLE_USERNAME", "demo")
        monkeypatch.setenv("KAGGLE_KEY", "demo-key")
        yield running
